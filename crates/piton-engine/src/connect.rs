//! Registration.

use piton_core::PositionOrder;

/// How stored positions of a kind are ordered; `None` for a kind that is not known.
pub(crate) fn order_of_kind(_kind: &str) -> Option<PositionOrder> {
    None
}
