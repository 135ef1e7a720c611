//! Values of types that the client does not know.

use std::error::Error;

use tokio_postgres::types::{FromSql, Type};

type Failed = Box<dyn Error + Sync + Send>;

/// A value of any type, as the server sent it.
pub(super) struct Raw<'a>(pub(super) &'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Failed> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
