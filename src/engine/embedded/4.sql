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
