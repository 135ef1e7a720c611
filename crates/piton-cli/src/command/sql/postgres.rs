//! `piton sql postgres`

use crate::{
    exit::{FINISHED, Failure},
    output::show,
};

/// Prints the schema of a store in PostgreSQL.
pub(crate) fn print() -> Result<u8, Failure> {
    show(piton_stores::postgres::schema_script())?;
    Ok(FINISHED)
}
