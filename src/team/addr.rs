//! Where an actor can be reached now: set by the actor when it starts, outliving its restarts.
//!
//! Not ractor's registry: its names are process-global, freed late, and refuse quick restarts (and two teams in one
//! process could not live side by side).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ractor::{ActorRef, Message};

/// The address of an actor of one kind. Cheap to clone.
#[derive(Debug)]
pub(crate) struct Addr<M: Message>(Arc<Place<M>>);

#[derive(Debug)]
struct Place<M: Message> {
    actor: Mutex<Option<ActorRef<M>>>,
    /// A hint is on its way; another would say nothing new.
    hinted: AtomicBool,
}

impl<M: Message> Clone for Addr<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> Default for Addr<M> {
    fn default() -> Self {
        Self(Arc::new(Place { actor: Mutex::new(None), hinted: AtomicBool::new(false) }))
    }
}

impl<M: Message> Addr<M> {
    /// An actor says that it is here. Said first thing in `pre_start`, before it looks at the engine, so that a
    /// hint sent meanwhile is not lost.
    pub(crate) fn here(&self, actor: ActorRef<M>) {
        *self.0.actor.lock().unwrap_or_else(PoisonError::into_inner) = Some(actor);
        // A hint to the one before died with it.
        self.heard();
    }

    /// The actor, if one is up.
    pub(crate) fn get(&self) -> Option<ActorRef<M>> {
        self.0.actor.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Is somebody there?
    pub(crate) fn alive(&self) -> bool {
        self.get().is_some_and(|actor| actor.get_status() == ractor::ActorStatus::Running)
    }

    /// Sends a hint to look again, unless one is on its way already: a thousand changes at once are one look.
    pub(crate) fn hint(&self, message: M) {
        if !self.0.hinted.swap(true, Ordering::AcqRel) && !self.tell(message) {
            self.0.hinted.store(false, Ordering::Release);
        }
    }

    /// The hint has arrived. Said before looking, so that what changes meanwhile is hinted at anew.
    pub(crate) fn heard(&self) {
        self.0.hinted.store(false, Ordering::Release);
    }

    /// Sends a message; `false` when nobody is there to take it. A hint may be lost: every actor looks for itself
    /// when it starts.
    pub(crate) fn tell(&self, message: M) -> bool {
        self.get().is_some_and(|actor| actor.cast(message).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use ractor::{Actor, ActorProcessingErr};
    use tokio::sync::{mpsc, oneshot};

    use super::*;

    /// Its look lasts as long as the test wants.
    struct Looker(Addr<Word>);

    #[derive(Debug)]
    enum Word {
        Look,
        HowOften(oneshot::Sender<u32>),
    }

    impl Actor for Looker {
        type Msg = Word;
        type State = (u32, mpsc::Receiver<()>);
        type Arguments = mpsc::Receiver<()>;

        async fn pre_start(
            &self,
            myself: ActorRef<Word>,
            done: mpsc::Receiver<()>,
        ) -> Result<Self::State, ActorProcessingErr> {
            self.0.here(myself);
            Ok((0, done))
        }

        async fn handle(
            &self,
            _myself: ActorRef<Word>,
            word: Word,
            (looks, done): &mut Self::State,
        ) -> Result<(), ActorProcessingErr> {
            match word {
                Word::Look => {
                    self.0.heard();
                    *looks += 1;
                    done.recv().await;
                }
                Word::HowOften(asked) => drop(asked.send(*looks)),
            }
            Ok(())
        }
    }

    /// F-42: ractor's mailboxes have no bound, so what goes into one has.
    #[tokio::test]
    async fn a_million_hints_to_a_busy_actor_are_one_look_more() {
        let addr = Addr::default();
        let (done, looks) = mpsc::channel(2);
        let (actor, running) = Actor::spawn(None, Looker(addr.clone()), looks).await.expect("started");
        addr.hint(Word::Look);
        // It has begun to look when it says so.
        while addr.0.hinted.load(Ordering::Acquire) {
            tokio::task::yield_now().await;
        }
        for _ in 0..1_000_000 {
            addr.hint(Word::Look);
        }
        let (asked, often) = oneshot::channel();
        assert!(addr.tell(Word::HowOften(asked)));
        for _ in 0..2 {
            done.send(()).await.expect("it looks");
        }
        assert_eq!(often.await, Ok(2));
        actor.stop(None);
        running.await.expect("ended");
    }
}
