CREATE TABLE IF NOT EXISTS anchors ( -- whoever writes rows of a pipeline locks its row here first
  pipeline VARCHAR(120) NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS checkpoints (
  pipeline VARCHAR(120) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  position LONGTEXT, -- JSON; NULL: begun, nothing durable yet
  records BIGINT NOT NULL,
  version BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  schema_version BIGINT NOT NULL,
  updated_at VARCHAR(40) NOT NULL, -- RFC 3339, UTC
  kind VARCHAR(120),
  sink_state LONGTEXT,
  checksum BIGINT NOT NULL,
  PRIMARY KEY (pipeline, "partition", sink)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS manifest ( -- how many rows each table has, and their checksums combined
  pipeline VARCHAR(120) NOT NULL,
  holds VARCHAR(16) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  "rows" BIGINT NOT NULL,
  checksum BIGINT NOT NULL,
  PRIMARY KEY (pipeline, holds, "partition", sink)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS history ( -- earlier checkpoints
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  pipeline VARCHAR(120) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  position LONGTEXT,
  records BIGINT NOT NULL,
  version BIGINT NOT NULL,
  epoch BIGINT NOT NULL,
  schema_version BIGINT NOT NULL,
  updated_at VARCHAR(40) NOT NULL,
  kind VARCHAR(120),
  sink_state LONGTEXT,
  checksum BIGINT NOT NULL,
  KEY history_by_pipeline (pipeline, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS claims (
  pipeline VARCHAR(120) NOT NULL,
  "partition" VARCHAR(250) NOT NULL, -- '*': the whole pipeline
  epoch BIGINT NOT NULL,
  owner_host VARCHAR(255) NOT NULL,
  owner_pid BIGINT NOT NULL,
  since VARCHAR(40) NOT NULL,
  renewals BIGINT NOT NULL,
  lease_ms BIGINT NOT NULL,
  released BIGINT NOT NULL,
  checksum BIGINT NOT NULL,
  -- By this server's clock: whether that was before the server was started.
  heard_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (pipeline, "partition")
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS state ( -- what programs keep beside their position
  pipeline VARCHAR(120) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  "key" VARCHAR(250) NOT NULL,
  json LONGTEXT NOT NULL,
  checksum BIGINT NOT NULL,
  PRIMARY KEY (pipeline, "partition", sink, "key")
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS pipelines (
  pipeline VARCHAR(120) NOT NULL PRIMARY KEY,
  source LONGTEXT NOT NULL,
  transforms LONGTEXT NOT NULL,
  sinks LONGTEXT NOT NULL,
  control VARCHAR(16) NOT NULL,
  file LONGTEXT,
  checksum BIGINT NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS runs (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  pipeline VARCHAR(120) NOT NULL,
  epoch BIGINT NOT NULL,
  owner_host VARCHAR(255) NOT NULL,
  owner_pid BIGINT NOT NULL,
  started_at VARCHAR(40) NOT NULL,
  ended_at VARCHAR(40),
  ended_as VARCHAR(16),
  records BIGINT NOT NULL,
  error LONGTEXT,
  progress LONGTEXT,
  KEY runs_by_pipeline (pipeline, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS events (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  pipeline VARCHAR(120) NOT NULL,
  at VARCHAR(40) NOT NULL,
  who LONGTEXT NOT NULL,
  what VARCHAR(120) NOT NULL,
  detail LONGTEXT NOT NULL,
  KEY events_by_pipeline (pipeline, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS orders ( -- resets and rewinds that the next owner applies in the sinks
  id BIGINT NOT NULL PRIMARY KEY,
  pipeline VARCHAR(120) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  summary LONGTEXT NOT NULL, -- vouches for the rest where there is no checksum
  kind VARCHAR(16) NOT NULL,
  position_kind VARCHAR(120),
  position LONGTEXT,
  records BIGINT NOT NULL,
  sink_state LONGTEXT,
  output VARCHAR(16),
  who LONGTEXT NOT NULL,
  at VARCHAR(40) NOT NULL,
  applied_at VARCHAR(40),
  checksum BIGINT, -- NULL: given by deleting a checkpoint in a shell
  KEY orders_by_pipeline (pipeline, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE TABLE IF NOT EXISTS dead_letters (
  number BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  pipeline VARCHAR(120) NOT NULL,
  sink VARCHAR(120) NOT NULL,
  id VARCHAR(500) NOT NULL,
  "partition" VARCHAR(250) NOT NULL,
  place LONGTEXT NOT NULL,
  reason LONGTEXT NOT NULL,
  record LONGTEXT NOT NULL,
  at VARCHAR(40) NOT NULL,
  checksum BIGINT NOT NULL,
  UNIQUE KEY dead_letters_by_id (pipeline, sink, id)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 COLLATE = {collation}
//
CREATE PROCEDURE IF NOT EXISTS lock_pipeline(
  IN named VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation})
BEGIN
  DECLARE found BIGINT DEFAULT 0;
  SELECT COUNT(*) INTO found FROM anchors WHERE pipeline = named FOR UPDATE;
  IF found = 0 THEN
    INSERT INTO anchors VALUES (named) ON DUPLICATE KEY UPDATE pipeline = named;
  END IF;
END
//
CREATE PROCEDURE IF NOT EXISTS put_checkpoints( -- in place of what is there, with manifest and history
  IN named VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation},
  IN entries LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation},
  IN with_history BIGINT)
BEGIN
  DECLARE before_rows, before_sum, after_rows, after_sum BIGINT DEFAULT 0;
  IF with_history THEN
    INSERT INTO history (pipeline, "partition", sink, position, records, version, epoch,
      schema_version, updated_at, kind, sink_state, checksum)
    SELECT c.pipeline, c."partition", c.sink, c.position, c.records, c.version, c.epoch,
      c.schema_version, c.updated_at, c.kind, c.sink_state, c.checksum
    FROM JSON_TABLE(entries, '$[*]' COLUMNS (
      name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
      sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR)) AS n
    JOIN checkpoints c ON c.pipeline = named AND c."partition" = n.name AND c.sink = n.sink;
  END IF;
  SELECT COUNT(*), COALESCE(BIT_XOR(c.checksum), 0) INTO before_rows, before_sum
  FROM JSON_TABLE(entries, '$[*]' COLUMNS (
    name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
    sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR)) AS n
  JOIN checkpoints c ON c.pipeline = named AND c."partition" = n.name AND c.sink = n.sink;
  SELECT COUNT(*), COALESCE(BIT_XOR(n.checksum), 0) INTO after_rows, after_sum
  FROM JSON_TABLE(entries, '$[*]' COLUMNS (checksum BIGINT PATH '$.checksum')) AS n;
  INSERT INTO checkpoints (pipeline, "partition", sink, position, records, version, epoch,
    schema_version, updated_at, kind, sink_state, checksum)
  SELECT named, n.name, n.sink, n.position, n.records, n.version, n.epoch,
    n.schema_version, n.updated_at, n.kind, n.sink_state, n.checksum
  FROM JSON_TABLE(entries, '$[*]' COLUMNS (
    name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
    sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
    position LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.position',
    records BIGINT PATH '$.records',
    version BIGINT PATH '$.version',
    epoch BIGINT PATH '$.epoch',
    schema_version BIGINT PATH '$.schema_version',
    updated_at VARCHAR(40) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.updated_at',
    kind VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.kind' ERROR ON ERROR,
    sink_state LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink_state',
    checksum BIGINT PATH '$.checksum')) AS n
  ON DUPLICATE KEY UPDATE position = VALUES(position), records = VALUES(records),
    version = VALUES(version), epoch = VALUES(epoch), schema_version = VALUES(schema_version),
    updated_at = VALUES(updated_at), kind = VALUES(kind), sink_state = VALUES(sink_state),
    checksum = VALUES(checksum);
  INSERT INTO manifest (pipeline, holds, "partition", sink, "rows", checksum)
  VALUES (named, 'checkpoints', '', '', after_rows - before_rows, after_sum ^ before_sum)
  ON DUPLICATE KEY UPDATE "rows" = "rows" + VALUES("rows"), checksum = checksum ^ VALUES(checksum);
END
//
CREATE PROCEDURE IF NOT EXISTS put_state( -- entries without JSON go; with their manifests
  IN named VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation},
  IN entries LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation})
BEGIN
  INSERT INTO manifest (pipeline, holds, "partition", sink, "rows", checksum)
  SELECT named, 'state', d.name, d.sink, SUM(d.n), BIT_XOR(d.checksum) FROM (
    SELECT n.name, n.sink, 1 AS n, n.checksum
    FROM JSON_TABLE(entries, '$[*]' COLUMNS (
      name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
      sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
      json LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.json',
      checksum BIGINT PATH '$.checksum')) AS n
    WHERE n.json IS NOT NULL
    UNION ALL
    SELECT n.name, n.sink, -1, s.checksum
    FROM JSON_TABLE(entries, '$[*]' COLUMNS (
      name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
      sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
      entry VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.key' ERROR ON ERROR)) AS n
    JOIN state s ON s.pipeline = named AND s."partition" = n.name AND s.sink = n.sink
      AND s."key" = n.entry
  ) AS d GROUP BY d.name, d.sink
  ON DUPLICATE KEY UPDATE "rows" = manifest."rows" + VALUES("rows"),
    checksum = manifest.checksum ^ VALUES(checksum);
  DELETE FROM state WHERE pipeline = named AND ("partition", sink, "key") IN (
    SELECT n.name, n.sink, n.entry
    FROM JSON_TABLE(entries, '$[*]' COLUMNS (
      name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
      sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
      entry VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.key' ERROR ON ERROR,
      json LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.json')) AS n
    WHERE n.json IS NULL);
  INSERT INTO state (pipeline, "partition", sink, "key", json, checksum)
  SELECT named, n.name, n.sink, n.entry, n.json, n.checksum
  FROM JSON_TABLE(entries, '$[*]' COLUMNS (
    name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
    sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
    entry VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.key' ERROR ON ERROR,
    json LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.json',
    checksum BIGINT PATH '$.checksum')) AS n
  WHERE n.json IS NOT NULL
  ON DUPLICATE KEY UPDATE json = VALUES(json), checksum = VALUES(checksum);
END
//
CREATE PROCEDURE IF NOT EXISTS save( -- all or none: fence, epoch, version, position are compared here
  IN named VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation},
  IN claimed VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation},
  IN mine BIGINT,
  IN entries LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation},
  IN changes LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation},
  IN with_history BIGINT)
BEGIN
  DECLARE refused BIGINT DEFAULT 0;
  DECLARE EXIT HANDLER FOR SQLEXCEPTION BEGIN ROLLBACK; RESIGNAL; END;
  START TRANSACTION READ WRITE;
  CALL lock_pipeline(named);
  SELECT COUNT(*) INTO refused FROM claims
    WHERE pipeline = named AND epoch > mine AND (claimed = '*' OR "partition" IN (claimed, '*'));
  IF refused = 0 THEN
    SELECT COUNT(*) INTO refused
    FROM JSON_TABLE(entries, '$[*]' COLUMNS (
      name VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.partition' ERROR ON ERROR,
      sink VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.sink' ERROR ON ERROR,
      version BIGINT PATH '$.expected_version',
      position LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.expected_position',
      kind VARCHAR(1000) CHARACTER SET utf8mb4 COLLATE {collation} PATH '$.expected_kind' ERROR ON ERROR)) AS n
    LEFT JOIN checkpoints c ON c.pipeline = named AND c."partition" = n.name AND c.sink = n.sink
    WHERE COALESCE(c.version, 0) <> n.version OR c.epoch > mine
      OR NOT (c.position <=> n.position) OR NOT (c.kind <=> n.kind);
  END IF;
  IF refused > 0 THEN
    ROLLBACK;
  ELSE
    CALL put_checkpoints(named, entries, with_history);
    IF JSON_LENGTH(changes) > 0 THEN
      CALL put_state(named, changes);
    END IF;
    COMMIT;
  END IF;
  SELECT refused = 0;
END
//
CREATE TRIGGER IF NOT EXISTS checkpoint_deleted AFTER DELETE ON checkpoints FOR EACH ROW
BEGIN -- deleting a checkpoint by hand is a reset, recorded and ordered as one
  DECLARE now_is VARCHAR(40) DEFAULT DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%fZ');
  DECLARE next BIGINT;
  IF @piton_store IS NULL THEN
    CALL lock_pipeline(OLD.pipeline);
    UPDATE manifest SET "rows" = "rows" - 1, checksum = checksum ^ OLD.checksum
      WHERE pipeline = OLD.pipeline AND holds = 'checkpoints';
    INSERT INTO history (pipeline, "partition", sink, position, records, version, epoch,
      schema_version, updated_at, kind, sink_state, checksum)
      VALUES (OLD.pipeline, OLD."partition", OLD.sink, OLD.position, OLD.records, OLD.version,
        OLD.epoch, OLD.schema_version, OLD.updated_at, OLD.kind, OLD.sink_state, OLD.checksum);
    DELETE FROM state
      WHERE pipeline = OLD.pipeline AND "partition" = OLD."partition" AND sink = OLD.sink;
    INSERT INTO events (pipeline, at, who, what, detail) VALUES (OLD.pipeline, now_is, 'sql shell',
      'reset', CONCAT('checkpoint ', OLD."partition", ' / ', OLD.sink, ' was deleted by hand'));
    INSERT INTO manifest (pipeline, holds, "partition", sink, "rows", checksum)
      VALUES (OLD.pipeline, 'orders', '', '', 1, 0) ON DUPLICATE KEY UPDATE "rows" = "rows" + 1;
    SELECT COALESCE(MAX(id), 0) + 1 INTO next FROM orders;
    INSERT INTO orders (id, pipeline, "partition", sink, summary, kind, records, who, at)
      VALUES (next, OLD.pipeline, OLD."partition", OLD.sink,
        CONCAT(next, ': reset ', OLD.pipeline, ' / ', OLD."partition", ' / ', OLD.sink,
          ' at ', now_is),
        'reset', 0, 'sql shell', now_is);
  END IF;
END
//
CREATE TRIGGER IF NOT EXISTS checkpoint_inserted BEFORE INSERT ON checkpoints FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'a checkpoint cannot be made by hand: piton run makes it; use `piton rewind` to go back';
END IF
//
CREATE TRIGGER IF NOT EXISTS checkpoint_updated BEFORE UPDATE ON checkpoints FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'a checkpoint cannot be changed by hand: use `piton rewind` to go back, or delete the row to begin anew';
END IF
//
CREATE TRIGGER IF NOT EXISTS state_deleted AFTER DELETE ON state FOR EACH ROW
IF @piton_store IS NULL THEN
  UPDATE manifest SET "rows" = "rows" - 1, checksum = checksum ^ OLD.checksum
    WHERE pipeline = OLD.pipeline AND holds = 'state'
      AND "partition" = OLD."partition" AND sink = OLD.sink;
END IF
//
CREATE TRIGGER IF NOT EXISTS state_inserted BEFORE INSERT ON state FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'state cannot be made by hand: it belongs to a position';
END IF
//
CREATE TRIGGER IF NOT EXISTS state_updated BEFORE UPDATE ON state FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'state cannot be changed by hand: it belongs to a position';
END IF
//
CREATE TRIGGER IF NOT EXISTS dead_letter_deleted AFTER DELETE ON dead_letters FOR EACH ROW
IF @piton_store IS NULL THEN
  UPDATE manifest SET "rows" = "rows" - 1, checksum = checksum ^ OLD.checksum
    WHERE pipeline = OLD.pipeline AND holds = 'dead letters';
END IF
//
CREATE TRIGGER IF NOT EXISTS pipeline_updated BEFORE UPDATE ON pipelines FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'a pipeline cannot be changed by hand: use `piton pause`, `resume` or `cancel`';
END IF
//
CREATE TRIGGER IF NOT EXISTS pipeline_deleted BEFORE DELETE ON pipelines FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'a pipeline cannot be deleted by hand: use `piton reset` to make it begin anew';
END IF
//
CREATE TRIGGER IF NOT EXISTS claim_updated BEFORE UPDATE ON claims FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'claims keep late writers out: a dead owner is replaced without help, so leave them alone';
END IF
//
CREATE TRIGGER IF NOT EXISTS claim_deleted BEFORE DELETE ON claims FOR EACH ROW
IF @piton_store IS NULL THEN
  SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT =
    'claims keep late writers out: a dead owner is replaced without help, so leave them alone';
END IF
//
