//! Typed documents of the engine: read, changed by a pure function, saved with a compare-and-set.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

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

impl Kept for crate::fees::Fees {
    const KIND: &'static str = "advice";

    fn key(&self) -> &str {
        "fees"
    }
}

impl Kept for crate::callback::Heard {
    const KIND: &'static str = "callback";

    fn key(&self) -> &str {
        "pagerduty"
    }
}

impl Kept for crate::replay::Replay {
    const KIND: &'static str = "replay";

    fn key(&self) -> &str {
        &self.id
    }
}

/// All of a kind. What cannot be read (written by a newer version, or damaged) is left alone, and a person is called for it.
pub(crate) async fn all<T: Kept + Clone>(engine: &dyn Engine) -> Result<Vec<Stored<T>>, engine::Error> {
    anew(engine, &[]).await
}

/// As [`all`]; what is known already, and is of the same version still, is not read again.
async fn anew<T: Kept + Clone>(engine: &dyn Engine, known: &[Stored<T>]) -> Result<Vec<Stored<T>>, engine::Error> {
    let known: BTreeMap<&str, &Stored<T>> = known.iter().map(|stored| (stored.value.key(), stored)).collect();
    let documents = engine.documents(T::KIND).await?;
    let mut found = Vec::with_capacity(documents.len());
    for document in documents {
        if let Some(same) = known.get(document.key.as_str()).filter(|known| known.version == document.version) {
            found.push((*same).clone());
            continue;
        }
        let why = match serde_json::from_value::<T>(document.body) {
            Ok(value) if value.key() == document.key => {
                found.push(Stored { version: document.version, value });
                continue;
            }
            Ok(value) => format!("it calls itself {}", value.key()),
            Err(error) => error.to_string(),
        };
        engine.note_unreadable(&format!("{} {}", T::KIND, document.key), &why);
    }
    Ok(found)
}

/// What was read last of each kind, and the engine's count of saves from before it was read: the actors look at every
/// change of any task, and documents are rarely what changed.
#[derive(Default)]
pub(crate) struct Drawer(Mutex<BTreeMap<&'static str, Read>>);

/// The count of saves, and a list of [`Stored`].
type Read = (u64, Arc<dyn Any + Send + Sync>);

impl Drawer {
    /// [`all`], read anew only when something was saved meanwhile.
    pub(crate) async fn all<T: Kept + Clone + Send + Sync + 'static>(
        &self,
        engine: &dyn Engine,
    ) -> Result<Arc<Vec<Stored<T>>>, engine::Error> {
        let Some(saves) = engine.saves() else { return Ok(Arc::new(all(engine).await?)) };
        let (before, known) = self.known(T::KIND).unzip();
        let known = known.and_then(|known| known.downcast::<Vec<Stored<T>>>().ok()).unwrap_or_default();
        if before == Some(saves) {
            return Ok(known);
        }
        let read = Arc::new(anew(engine, &known).await?);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(T::KIND, (saves, read.clone()));
        Ok(read)
    }

    fn known(&self, kind: &str) -> Option<Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(kind).cloned()
    }
}

/// The names of all of a kind, also of those that cannot be read.
pub(crate) async fn names<T: Kept>(engine: &dyn Engine) -> Result<Vec<String>, engine::Error> {
    Ok(engine.documents(T::KIND).await?.into_iter().map(|document| document.key).collect())
}

/// The one of this name.
pub(crate) async fn one<T: Kept + Clone>(engine: &dyn Engine, key: &str) -> Result<Option<Stored<T>>, engine::Error> {
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
///
/// # Errors
/// The engine's, and those of `by`.
pub(crate) async fn change<T: Kept + Clone, E: From<engine::Error>>(
    engine: &dyn Engine,
    key: &str,
    now: Timestamp,
    by: impl Fn(&T) -> Result<Written<T>, E>,
) -> Result<Option<T>, E> {
    let mut tried = None;
    loop {
        let Some(stored) = one::<T>(engine, key).await? else { return Ok(None) };
        let written = by(&stored.value)?;
        let mut documents = vec![document(&written.value, stored.version)];
        documents.extend(written.with);
        match engine.save(documents, written.events, now).await {
            Ok(()) => return Ok(Some(written.value)),
            // Nobody has changed it: what is written with it is in the way, and stays so.
            Err(conflict @ engine::Error::DocumentConflict { .. }) if tried == Some(stored.version) => {
                return Err(conflict.into());
            }
            Err(engine::Error::DocumentConflict { .. }) => tried = Some(stored.version),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Changes the one document of its kind, or begins it; again if somebody else was faster.
///
/// # Errors
/// The engine's; its conflict when something is stored under this name that cannot be read.
pub(crate) async fn change_only<T: Kept + Clone + Default>(
    engine: &dyn Engine,
    now: Timestamp,
    by: impl Fn(T) -> T,
) -> Result<(), engine::Error> {
    let mut tried = None;
    loop {
        let known = one::<T>(engine, T::default().key()).await?;
        let (version, value) = known.map_or_else(Default::default, |known| (known.version, known.value));
        match engine.save(vec![document(&by(value), version)], Vec::new(), now).await {
            // Nobody has changed what we read, and it is not what is stored: trying again would never end.
            Err(conflict @ engine::Error::DocumentConflict { .. }) if tried == Some(version) => return Err(conflict),
            Err(engine::Error::DocumentConflict { .. }) => tried = Some(version),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::memory::Memory;

    /// What stood there could not be read, so it was begun anew, refused for what stood there, and begun anew, for ever.
    #[tokio::test]
    async fn what_cannot_be_read_is_not_changed_and_that_is_said() {
        let (engine, now) = (Memory::new(), Timestamp::from_millis(0));
        let heard = crate::callback::Heard::default();
        let kind = <crate::callback::Heard as Kept>::KIND.to_owned();
        change_only(&engine, now, |heard: crate::callback::Heard| heard).await.expect("begun");
        change_only(&engine, now, |heard: crate::callback::Heard| heard).await.expect("changed");
        let other = Document { kind, key: heard.key().to_owned(), version: 2, body: json!("no such thing") };
        engine.save(vec![other], Vec::new(), now).await.expect("damaged");
        let said = change_only(&engine, now, |heard: crate::callback::Heard| heard).await;
        assert!(matches!(said, Err(engine::Error::DocumentConflict { .. })), "{said:?}");
    }

    #[tokio::test]
    async fn documents_are_read_anew_once_something_was_saved_and_not_before() {
        let (engine, drawer, now) = (Memory::new(), Drawer::default(), Timestamp::from_millis(0));
        let other = |version| Document { kind: "other".to_owned(), key: "a".to_owned(), version, body: json!({}) };
        let read = async || drawer.all::<crate::replay::Replay>(&engine).await.expect("read");
        let first = read().await;
        assert!(first.is_empty());
        assert!(Arc::ptr_eq(&first, &read().await), "nothing was saved, and it was read anew");
        engine.save(vec![other(0)], Vec::new(), now).await.expect("saved");
        let second = read().await;
        assert!(!Arc::ptr_eq(&first, &second), "something was saved, and it was not read anew");
        engine.save(vec![other(0)], Vec::new(), now).await.expect_err("another version is stored");
        assert!(Arc::ptr_eq(&second, &read().await), "nothing was saved, and it was read anew");
    }
}
