-- Format 2. Failures counted by the hour, so that a window of a month is not a scan; views for the sqlite3 shell.
CREATE TABLE failure_hour (hour INTEGER NOT NULL, agent TEXT NOT NULL, type TEXT NOT NULL, class TEXT NOT NULL,
  failures INTEGER NOT NULL, PRIMARY KEY (hour, agent, type, class)) STRICT, WITHOUT ROWID;
INSERT INTO failure_hour
  SELECT at / 3600000, agent, type, class, count(*) FROM failure GROUP BY 1, 2, 3, 4;

CREATE VIEW tasks AS
  SELECT t.seq, t.id, t.state, t.agent, t.type, t.effect, t.priority, t.integration,
         p.record ->> '$.attempt' AS attempt, datetime(t.due / 1000, 'unixepoch') AS due,
         datetime(t.created_at / 1000, 'unixepoch') AS created, datetime(t.ended_at / 1000, 'unixepoch') AS ended,
         t.class, t.kind, b.task ->> '$.payload' AS payload
  FROM task t JOIN body b USING (seq) JOIN progress p USING (seq) ORDER BY t.seq;

CREATE VIEW dlq AS
  SELECT datetime(l.at / 1000, 'unixepoch') AS at, l.id AS task, l.status, l.agent, l.type, l.effect, l.integration,
         l.class, l.kind, l.message, p.record ->> '$.letter.why' AS why, p.record ->> '$.letter.deliveries' AS deliveries
  FROM letter l JOIN progress p USING (seq) ORDER BY l.at DESC, l.seq DESC;
