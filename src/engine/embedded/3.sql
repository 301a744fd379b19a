-- Format 3. The journals: every call of a model and of a tool, intent and outcome, apart from the record of the task, so
-- that a step writes itself and nothing else.
CREATE TABLE step (
  task    INTEGER NOT NULL REFERENCES task(seq),
  number  INTEGER NOT NULL,             -- in its task, from 1
  asks    INTEGER NOT NULL,             -- a call of a model for the task itself?
  at      INTEGER NOT NULL,
  agent   TEXT    NOT NULL,
  counted INTEGER NOT NULL,             -- what the limits of money count, in millionths of a US dollar
  step    TEXT    NOT NULL,
  PRIMARY KEY (task, number)
) STRICT;
CREATE INDEX step_counted ON step(at) WHERE counted > 0;

CREATE VIEW steps AS
  SELECT t.id AS task, s.number, s.agent, datetime(s.at / 1000, 'unixepoch') AS at, s.step ->> '$.intent.intent' AS does,
         coalesce(s.step ->> '$.intent.model', s.step ->> '$.intent.tool') AS asks,
         coalesce(s.step ->> '$.outcome.outcome', 'open') AS outcome, s.counted / 1e6 AS usd
  FROM step s JOIN task t ON t.seq = s.task ORDER BY s.task, s.number;
