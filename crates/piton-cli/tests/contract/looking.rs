//! `status`, `history`, `plan`: what there is to see.

use std::{fs, thread, time::Duration};

use piton_testkit::{Program, program::PATIENCE};

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

#[test]
fn what_is_not_built_is_a_named_error() {
    let folder = Folder::new(3);
    for command in ["torture", "serve"] {
        let ended = folder.ends_with(2, &[command, "p.yaml", "--frob"]);
        assert!(ended.stderr.contains("is not built yet"), "{ended}");
        let help = folder.ends_with(0, &["--help"]).stdout;
        assert!(!help.contains(command), "{help}");
    }
    let schema = folder.ends_with(0, &["schema"]).stdout;
    for (text, place) in [
        ("pipeline: p\nsource: {kafka: {}}\nsinks: {a: {stdout: {}}}\n", "p.yaml:2:10"),
        ("pipeline: p\nsource: {csv: {path: a}}\nsinks: {a: {kafka: {}}}\n", "p.yaml:3:13"),
    ] {
        folder.write("p.yaml", text);
        let ended = folder.ends_with(2, &["run", "p.yaml"]);
        assert!(ended.stderr.contains("not built yet"), "{ended}");
        assert!(ended.stderr.contains(place), "{ended}");
    }
    for word in ["kafka", "parquet"] {
        assert!(!schema.contains(word), "the schema knows {word}");
    }
}

#[test]
fn what_has_more_to_do_may_not_lag() {
    let folder = Folder::new(200);
    folder.configure_source("{csv: {path: in.csv}, rate: 50/s}", &[DB], "");
    let run = folder.program().start(&["run", "p.yaml"]).unwrap();
    thread::sleep(Duration::from_millis(1500));
    run.terminate().unwrap();
    assert_eq!(run.wait(PATIENCE).unwrap().code, Some(1));
    folder.ends_with(0, &["status", "--check", "--max-lag", "1h"]);
    let ended = folder.ends_with(1, &["status", "--check", "--max-lag", "1ms"]);
    assert!(ended.stderr.contains("(stopped)"), "{ended}");
    folder.configure(&[DB], "");
    folder.ends_with(0, &["run", "p.yaml"]);
    folder.ends_with(0, &["status", "--check", "--max-lag", "1ms"]);
}

#[test]
fn the_store_is_where_it_is_said_to_be() {
    let folder = Folder::new(3);
    folder.configure(&[DB], "");
    fs::create_dir(folder.path("below")).unwrap();
    let below = Program::new(env!("CARGO_BIN_EXE_piton"), folder.path("below"));
    let store = format!("store: {}\n", folder.path("piton.db").display());
    let ended = below.run(&["run", "../p.yaml"]).unwrap();
    assert!(ended.code == Some(0) && ended.stderr.starts_with(&store), "{ended}");
    for args in [&["status", "--store", "sqlite:../piton.db"][..], &["status"]] {
        let ended = below.clone().with("PITON_STORE", "sqlite:../piton.db").run(args).unwrap();
        assert!(ended.code == Some(0) && ended.stdout.starts_with(&store), "{ended}");
    }
    let ended = folder.program().with("PITON_STORE", "").run(&["status"]).unwrap();
    assert!(ended.code == Some(0) && ended.stdout.starts_with(&store), "{ended}");
}

#[test]
fn every_command_speaks_json() {
    let folder = Folder::new(3);
    assert_eq!(folder.json(&["init", "in.csv", "--json"])["file"], "in.yaml");
    folder.configure(&[DB], "");
    folder.ends_with(0, &["run", "p.yaml"]);
    assert_eq!(folder.json(&["backup", "b.db", "--json"])["backup"], "b.db");
    folder.ends_with(0, &["export", "-o", "e.json"]);
    let import = ["import", "e.json", "--store", "sqlite:new.db", "--json"];
    assert_eq!(folder.json(&import)["pipelines"], 1);
    for command in ["pause", "resume", "cancel"] {
        assert_eq!(folder.json(&[command, "p.yaml", "--json"])["pipeline"], "p");
    }
    assert_eq!(folder.json(&["dead-letters", "count", "p.yaml", "--json"])["count"], 0);
    assert_eq!(folder.json(&["reset", "p.yaml", "--yes", "--json"])["done"], "reset");
}
