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
