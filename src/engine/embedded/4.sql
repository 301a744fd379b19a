-- Format 4. Tasks counted by agent and state, so that who stands where is not a scan; what was forgotten, still counted.
-- The freed pages of what is forgotten are used again; the file does not shrink by itself (`backstop prune --compact`).
CREATE TABLE depth (agent TEXT NOT NULL, state TEXT NOT NULL, tasks INTEGER NOT NULL,
  PRIMARY KEY (agent, state)) STRICT, WITHOUT ROWID;
INSERT INTO depth SELECT agent, state, count(*) FROM task GROUP BY agent, state;

CREATE TABLE pruned (state TEXT PRIMARY KEY, tasks INTEGER NOT NULL) STRICT, WITHOUT ROWID;

-- Numbers go on although what bore the last of them may be gone.
INSERT INTO meta SELECT 'last_task', coalesce(max(seq), 0) FROM task;
INSERT INTO meta SELECT 'last_event', coalesce(max(seq), 0) FROM event;

CREATE INDEX event_team ON event(at) WHERE task IS NULL;

-- What is rare among all tasks is found without looking at all of them. Nothing here is written when a task goes well.
CREATE INDEX task_over   ON task(state, seq) WHERE state IN ('dead', 'waiting-human', 'cancelled');
CREATE INDEX task_failed ON task(seq, kind, class, type, agent, folded) WHERE kind IS NOT NULL;  -- holds all it is asked

-- Each of these is in the order of the queue itself: its key (at, seq) follows the column.
CREATE INDEX letter_agent  ON letter(agent);
CREATE INDEX letter_type   ON letter(type);
CREATE INDEX letter_class  ON letter(class);
CREATE INDEX letter_kind   ON letter(kind);
CREATE INDEX letter_status ON letter(status);

-- The views for the sqlite3 shell again: one row that holds no JSON must not take all others from whoever looks for it.
DROP VIEW IF EXISTS tasks;
CREATE VIEW tasks AS
  SELECT t.seq, t.id, t.state, t.agent, t.type, t.effect, t.priority, t.integration,
         CASE WHEN json_valid(p.record) THEN p.record ->> '$.attempt' END AS attempt,
         datetime(t.due / 1000, 'unixepoch') AS due, datetime(t.created_at / 1000, 'unixepoch') AS created,
         datetime(t.ended_at / 1000, 'unixepoch') AS ended, t.class, t.kind,
         CASE WHEN json_valid(b.task) THEN b.task ->> '$.payload' END AS payload
  FROM task t JOIN body b USING (seq) JOIN progress p USING (seq) ORDER BY t.seq;

DROP VIEW IF EXISTS dlq;
CREATE VIEW dlq AS
  SELECT datetime(l.at / 1000, 'unixepoch') AS at, l.id AS task, l.status, l.agent, l.type, l.effect, l.integration,
         l.class, l.kind, l.message, CASE WHEN json_valid(p.record) THEN p.record ->> '$.letter.why' END AS why,
         CASE WHEN json_valid(p.record) THEN p.record ->> '$.letter.deliveries' END AS deliveries
  FROM letter l JOIN progress p USING (seq) ORDER BY l.at DESC, l.seq DESC;

DROP VIEW IF EXISTS steps;
CREATE VIEW steps AS
  SELECT t.id AS task, s.number, s.agent, datetime(s.at / 1000, 'unixepoch') AS at,
         CASE WHEN json_valid(s.step) THEN s.step ->> '$.intent.intent' END AS does,
         CASE WHEN json_valid(s.step) THEN coalesce(s.step ->> '$.intent.model', s.step ->> '$.intent.tool') END AS asks,
         CASE WHEN json_valid(s.step) THEN coalesce(s.step ->> '$.outcome.outcome', 'open') END AS outcome,
         s.counted / 1e6 AS usd
  FROM step s JOIN task t ON t.seq = s.task ORDER BY s.task, s.number;
