//! `status`, `history`, `plan`: what there is to see.

use crate::folder::{DB, Folder};

#[test]
fn history_shows_each_checkpoint_once() {
    let folder = Folder::new(3);
    folder.configure(&[DB], "");
    for _ in 0..3 {
        folder.ends_with(0, &["run", "p.yaml"]);
    }
    let history = folder.json(&["history", "p", "--json"]);
    let versions: Vec<_> = history["checkpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["version"].as_u64().unwrap(), c["records"].as_u64().unwrap()))
        .collect();
    assert_eq!(versions, [(2, 3), (1, 0)]);
}
