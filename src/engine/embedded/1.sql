-- Format 1. Times are Unix milliseconds. What a task is asked never changes and stands apart from what becomes of it,
-- so that a change of state does not write the payload again.
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;  -- epoch, high_water
INSERT INTO meta VALUES ('epoch', 0), ('high_water', 0);

CREATE TABLE task (
  seq               INTEGER PRIMARY KEY,  -- in order of submission
  id                TEXT    NOT NULL UNIQUE,
  agent             TEXT    NOT NULL,     -- whose turn it is
  type              TEXT    NOT NULL,
  effect            TEXT    NOT NULL,
  priority          TEXT    NOT NULL,
  tenant            TEXT    NOT NULL,
  integration       TEXT    NOT NULL,
  state             TEXT    NOT NULL,
  due               INTEGER NOT NULL,
  deadline          INTEGER,
  again             INTEGER NOT NULL,     -- delivered or given up on before?
  lease_agent       TEXT,
  lease_incarnation INTEGER,
  lease_epoch       INTEGER,
  lease_until       INTEGER,
  class             TEXT,                 -- of the last failure
  kind              TEXT,
  folded            TEXT,                 -- its message in lower case
  status            TEXT,                 -- of the dead letter
  created_at        INTEGER NOT NULL,
  ended_at          INTEGER
) STRICT;
CREATE INDEX task_depth   ON task(agent, state, seq);
CREATE INDEX task_waiting ON task(seq) WHERE state IN ('ready', 'scheduled', 'parked');
CREATE INDEX task_running ON task(lease_until, seq) WHERE state = 'running';

CREATE TABLE body     (seq INTEGER PRIMARY KEY REFERENCES task(seq), task TEXT NOT NULL) STRICT;    -- as submitted
CREATE TABLE progress (seq INTEGER PRIMARY KEY REFERENCES task(seq), record TEXT NOT NULL) STRICT;  -- what became of it

CREATE TABLE idempotency (key TEXT PRIMARY KEY, seq INTEGER NOT NULL, fingerprint TEXT NOT NULL) STRICT, WITHOUT ROWID;

CREATE TABLE event (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, task INTEGER, what TEXT NOT NULL) STRICT;
CREATE INDEX event_task ON event(task, seq) WHERE task IS NOT NULL;

CREATE TABLE letter (                     -- dead letters, in the order they are looked through
  at          INTEGER NOT NULL,
  seq         INTEGER NOT NULL,
  id          TEXT    NOT NULL,
  status      TEXT    NOT NULL,
  state       TEXT    NOT NULL,
  agent       TEXT    NOT NULL,
  type        TEXT    NOT NULL,
  effect      TEXT    NOT NULL,
  priority    TEXT    NOT NULL,
  integration TEXT    NOT NULL,
  class       TEXT    NOT NULL,
  kind        TEXT    NOT NULL,
  message     TEXT    NOT NULL,
  folded      TEXT    NOT NULL,
  PRIMARY KEY (at, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE death (n INTEGER PRIMARY KEY, at INTEGER NOT NULL, task TEXT NOT NULL, generation INTEGER NOT NULL,
  agent TEXT NOT NULL, type TEXT NOT NULL, class TEXT NOT NULL, kind TEXT NOT NULL, integration TEXT) STRICT;
CREATE INDEX death_at ON death(at);

CREATE TABLE failure (n INTEGER PRIMARY KEY, at INTEGER NOT NULL, agent TEXT NOT NULL, type TEXT NOT NULL,
  class TEXT NOT NULL) STRICT;
CREATE INDEX failure_at ON failure(at, agent, type, class);

CREATE TABLE document (kind TEXT NOT NULL, key TEXT NOT NULL, version INTEGER NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
