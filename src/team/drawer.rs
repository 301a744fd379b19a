//! Typed documents of the engine: read, changed by a pure function, saved with a compare-and-set.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::engine::{self, Document, Engine};
use crate::event::NewEvent;
use crate::time::Timestamp;

/// A document as read: its content, and the version a change of it must be based on.
#[derive(Clone, Debug)]
pub(crate) struct Stored<T> {
    pub(crate) version: u64,
    pub(crate) value: T,
}

/// Something kept in the engine's drawer.
pub(crate) trait Kept: Serialize + DeserializeOwned {
    /// The kind of its documents.
    const KIND: &'static str;

    /// Its name among its kind.
    fn key(&self) -> &str;
}

impl Kept for crate::incident::Incident {
    const KIND: &'static str = "incident";

    fn key(&self) -> &str {
        &self.id
    }
}

impl Kept for crate::incident::Page {
    const KIND: &'static str = "page";

    fn key(&self) -> &str {
        &self.id
    }
}

impl Kept for crate::replay::Replay {
    const KIND: &'static str = "replay";

    fn key(&self) -> &str {
        &self.id
    }
}

/// All of a kind. What cannot be read (written by a newer version, or damaged) is said in the log and left alone.
pub(crate) async fn all<T: Kept>(engine: &dyn Engine) -> Result<Vec<Stored<T>>, engine::Error> {
    let documents = engine.documents(T::KIND).await?;
    let mut found = Vec::with_capacity(documents.len());
    for document in documents {
        match serde_json::from_value(document.body) {
            Ok(value) => found.push(Stored { version: document.version, value }),
            Err(error) => {
                tracing::error!(kind = T::KIND, key = document.key, %error, "a stored document cannot be read")
            }
        }
    }
    Ok(found)
}

/// The one of this name.
pub(crate) async fn one<T: Kept>(engine: &dyn Engine, key: &str) -> Result<Option<Stored<T>>, engine::Error> {
    Ok(all::<T>(engine).await?.into_iter().find(|stored| stored.value.key() == key))
}

/// A document to be saved over this version of it (0: a new one).
pub(crate) fn document<T: Kept>(value: &T, version: u64) -> Document {
    // Our own types always serialize; `null` would remove the document, so it must not stand for a failure.
    let body = serde_json::to_value(value).expect("our documents are plain data");
    Document { kind: T::KIND.to_owned(), key: value.key().to_owned(), version, body }
}

/// Takes a document out.
pub(crate) fn removed<T: Kept>(value: &T, version: u64) -> Document {
    Document { kind: T::KIND.to_owned(), key: value.key().to_owned(), version, body: serde_json::Value::Null }
}

/// What a change of a document writes: its next content, more documents, events.
pub(crate) struct Written<T> {
    pub(crate) value: T,
    pub(crate) with: Vec<Document>,
    pub(crate) events: Vec<NewEvent>,
}

/// Changes one document by a pure function, again if somebody else was faster. `Ok(None)`: there is none of this name.
pub(crate) async fn change<T: Kept + Clone, E: From<engine::Error>>(
    engine: &dyn Engine,
    key: &str,
    now: Timestamp,
    by: impl Fn(&T) -> Result<Written<T>, E>,
) -> Result<Option<T>, E> {
    loop {
        let Some(stored) = one::<T>(engine, key).await? else { return Ok(None) };
        let written = by(&stored.value)?;
        let mut documents = vec![document(&written.value, stored.version)];
        documents.extend(written.with);
        match engine.save(documents, written.events, now).await {
            Ok(()) => return Ok(Some(written.value)),
            Err(engine::Error::DocumentConflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
