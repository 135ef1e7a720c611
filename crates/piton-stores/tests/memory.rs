//! The memory store passes the suite.

use std::sync::Arc;

use piton_core::Store;
use piton_stores::{MemoryStore, conformance::Harness};

struct Memory(Arc<MemoryStore>);

impl Harness for Memory {
    fn fresh() -> Self {
        Self(Arc::new(MemoryStore::new()))
    }

    fn open(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
}

piton_stores::conformance!(Memory);

#[test]
fn the_model_and_the_memory_store_agree() {
    piton_stores::conformance::model::run::<Memory>(1000);
}
