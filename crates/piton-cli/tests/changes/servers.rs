//! Tables of PostgreSQL, MySQL and MariaDB.

use mysql::{Conn, Opts, OptsBuilder, prelude::Queryable as _};
use piton_testkit::service::{self, MariaDb, MySql, Postgres, Server};
use postgres::{Client, NoTls};

use crate::place::{Place, ROWS, RUN};

const CREATE: &str =
    "CREATE TABLE t (id bigint NOT NULL PRIMARY KEY, name varchar(40) NOT NULL, n int)";

/// A server, and how statements get there.
#[derive(Clone, Copy)]
struct System {
    server: &'static Server,
    execute: fn(&str, &str),
    retype: &'static str,
    now: &'static str,
}

fn systems() -> Vec<System> {
    let postgres = service::needed(Postgres::shared()).map(|server| System {
        server,
        execute: |url, sql| Client::connect(url, NoTls).unwrap().batch_execute(sql).unwrap(),
        retype: "ALTER TABLE t ALTER COLUMN n TYPE numeric",
        now: "column 'n' was integer, and is now numeric",
    });
    let of_mysql = |server| System {
        server,
        execute: mysql_execute,
        retype: "ALTER TABLE t MODIFY n decimal(20, 4)",
        now: "column 'n' was int, and is now decimal(20,4)",
    };
    let mysql = service::needed(MySql::shared()).map(of_mysql);
    let mariadb = service::needed(MariaDb::shared()).map(of_mysql);
    [postgres, mysql, mariadb].into_iter().flatten().collect()
}

fn mysql_execute(url: &str, sql: &str) {
    let options = OptsBuilder::from_opts(Opts::from_url(url).unwrap());
    let mut conn = Conn::new(options).unwrap();
    for statement in sql.split(';').filter(|part| !part.trim().is_empty()) {
        conn.query_drop(statement).unwrap();
    }
}

struct Half {
    place: Place,
    system: System,
    url: String,
}

impl Half {
    /// A table of which some rows were read.
    #[track_caller]
    fn read(system: System, more: &str) -> Self {
        let (place, url) = (Place::new(), system.server.database().unwrap());
        let half = Self { place, system, url };
        let rows = (1..=ROWS).map(|id| format!("({id}, 'name {id}', {})", id % 7));
        half.execute(CREATE);
        half.execute(&format!("INSERT INTO t VALUES {}", rows.collect::<Vec<_>>().join(", ")));
        half.place.configure(&format!("{{sql: {{url: '{}', table: t}}}}", half.url), more);
        half.place.dies();
        half
    }

    fn execute(&self, sql: &str) {
        (self.system.execute)(&self.url, sql);
    }
}

#[test]
fn an_altered_table_is_refused_with_the_difference() {
    for system in systems() {
        let half = Half::read(system, "");
        half.execute(system.retype);
        half.place.refused(&["it was altered", system.now, "--accept-changes"]);
        half.execute("ALTER TABLE t DROP COLUMN n");
        half.place.refused(&["column 'n' is gone"]);
        half.execute("ALTER TABLE t ADD COLUMN n int; ALTER TABLE t ADD COLUMN more int");
        half.place.refused(&["column 'more' is new"]);
        half.execute("ALTER TABLE t DROP COLUMN more; DELETE FROM t WHERE id % 10 = 0");
        half.execute("INSERT INTO t VALUES (-1, 'x', 1), (99999, 'y', 2)");
        let ended = half.place.goes_on(RUN, &["resuming after"]);
        assert!(!ended.stderr.contains("changed"), "rows are no part of it: {ended}");
        assert_eq!(half.place.count("out.db", "SELECT count(*) FROM t WHERE id = 99999"), 1);
    }
}

#[test]
fn another_key_is_another_source() {
    for system in systems() {
        let half = Half::read(system, "");
        let drop = if system.retype.contains("MODIFY") {
            "ALTER TABLE t DROP PRIMARY KEY"
        } else {
            "ALTER TABLE t DROP CONSTRAINT t_pkey"
        };
        half.execute(drop);
        half.place.refused(&["no primary key"]);
        half.execute("ALTER TABLE t ADD PRIMARY KEY (id, name)");
        half.place.refused(&["its key was (id), and is now (id, name)"]);
    }
}

#[test]
fn the_file_may_say_to_go_on_or_to_begin_anew() {
    for system in systems() {
        let half = Half::read(system, "on_source_change: continue");
        half.execute(system.retype);
        half.place.goes_on(RUN, &["goes on all the same", system.now, "resuming after"]);
        let again = half.place.goes_on(RUN, &["finished already"]);
        assert!(!again.stderr.contains("was int"), "{again}");

        let half = Half::read(system, "on_source_change: restart");
        half.execute(&format!("{}; UPDATE t SET n = n + 10", system.retype));
        let ended = half.place.goes_on(RUN, &["begins anew", system.now]);
        assert!(!ended.stderr.contains("resuming"), "{ended}");
        let again = "SELECT count(*) FROM t WHERE n >= 10";
        assert_eq!(half.place.count("out.db", again), i64::from(ROWS));
        half.place.has_event("source_changed", "begins anew");
    }
}
