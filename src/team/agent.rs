//! One agent: keeps its calls running, and its mailbox free.
//!
//! The dispatcher assigns it deliveries, its calls report to it when they end, the supervisor asks how it is. If it
//! dies, its calls are aborted and the supervisor hands their deliveries back; nothing else is lost, for it owns
//! nothing: leases and results are the engine's, and a call settles its own delivery there.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ractor::{Actor, ActorProcessingErr, ActorRef, RpcReplyPort};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::attempt::{self, Halt};
use super::office::Office;
use super::seat::Seat;
use crate::record::Record;
use crate::task::TaskId;

/// What an agent can be told.
pub(crate) enum AgentMessage {
    /// Work on this delivery, claimed for you.
    Assign(Arc<Record>),
    /// A call of yours has ended and is settled; with the panic's message if it panicked.
    Finished { task: TaskId, fence: u64, panic: Option<String> },
    /// Stop working on this task: it was cancelled.
    Cancel(TaskId),
    /// Give everything back that still runs.
    HandBack,
    /// Die, as if by a bug: what game days and the demo use.
    Crash(String),
    /// Hear nothing for so long, as if stuck: what drills use.
    Hang(Duration),
    /// How many calls are running? Answered at once, whatever they do.
    Health(RpcReplyPort<usize>),
}

/// An agent's fixed parts.
pub(crate) struct AgentActor {
    pub(crate) office: Arc<Office>,
    pub(crate) seat: Arc<Seat>,
}

/// What is running.
pub(crate) struct Calls {
    running: BTreeMap<(TaskId, u64), Call>,
    /// A call panicked: finish what runs, take nothing new, then be restarted.
    condemned: Option<String>,
}

struct Call {
    halt: CancellationToken,
    why: Arc<std::sync::Mutex<Halt>>,
    // Dropped with the actor: a dead agent's calls end, and their deliveries are handed back by the supervisor.
    _task: AbortOnDropHandle<()>,
}

impl Actor for AgentActor {
    type Msg = AgentMessage;
    type State = Calls;
    type Arguments = ();

    async fn pre_start(&self, myself: ActorRef<AgentMessage>, (): ()) -> Result<Calls, ActorProcessingErr> {
        self.seat.addr.here(myself);
        Ok(Calls { running: BTreeMap::new(), condemned: None })
    }

    async fn handle(
        &self,
        myself: ActorRef<AgentMessage>,
        message: AgentMessage,
        calls: &mut Calls,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            AgentMessage::Assign(record) => self.assign(myself, record, calls),
            AgentMessage::Finished { task, fence, panic } => self.finished(task, fence, panic, calls)?,
            AgentMessage::Cancel(task) => calls.halt(Halt::Cancelled, |running| running == task),
            AgentMessage::HandBack => calls.halt(Halt::Draining, |_| true),
            AgentMessage::Crash(message) => return Err(message.into()),
            AgentMessage::Hang(span) => self.office.clock.sleep(span).await,
            AgentMessage::Health(reply) => {
                if !reply.is_closed() {
                    // The asker may give up between the two; then nobody wants to know.
                    let _ = reply.send(calls.running.len());
                }
            }
        }
        Ok(())
    }
}

impl AgentActor {
    /// Starts the call as a task of its own: a mailbox that waits for a model is deaf for minutes.
    fn assign(&self, myself: ActorRef<AgentMessage>, record: Arc<Record>, calls: &mut Calls) {
        let (task, fence) = (record.task.id, record.fence);
        let halt = CancellationToken::new();
        let why = Arc::new(std::sync::Mutex::new(Halt::Cancelled));
        let task_span =
            tracing::info_span!("task", task = %task, r#type = %record.task.task_type, effect = %record.task.effect);
        let span = tracing::info_span!(
            parent: &task_span,
            "attempt",
            agent = %self.seat.agent.name,
            attempt = record.attempt, generation = record.generation
        );
        // Boxed: a task is moved several times on its way to the runtime, and there are thousands of them.
        let work = Box::pin(attempt::run(
            Arc::clone(&self.office),
            Arc::clone(&self.seat),
            Arc::clone(&record),
            halt.clone(),
            Arc::clone(&why),
        ));
        let (office, seat) = (Arc::clone(&self.office), Arc::clone(&self.seat));
        let call = async move {
            // A panic in a provider or a tool is data about this delivery, not the end of the agent's other calls.
            let panic = AssertUnwindSafe(work).catch_unwind().await.err().map(|payload| panic_text(payload.as_ref()));
            if let Some(text) = &panic {
                Box::pin(attempt::crashed(&office, &seat, &record, text)).await;
            }
            seat.end(task, fence);
            office.guards.came(task, fence);
            // Both are hints: the delivery is settled.
            let _ = myself.cast(AgentMessage::Finished { task, fence, panic });
            office.kick();
        };
        let handle = AbortOnDropHandle::new(tokio::spawn(call.instrument(span)));
        calls.running.insert((task, fence), Call { halt, why, _task: handle });
    }

    fn finished(
        &self,
        task: TaskId,
        fence: u64,
        panic: Option<String>,
        calls: &mut Calls,
    ) -> Result<(), ActorProcessingErr> {
        calls.running.remove(&(task, fence));
        if let Some(text) = panic {
            self.seat.condemn(task);
            calls.condemned.get_or_insert(text);
        }
        match &calls.condemned {
            // What panicked may have left anything behind: a fresh start, as soon as no paid call is in the way.
            Some(text) if calls.running.is_empty() => Err(text.clone().into()),
            Some(_) | None => Ok(()),
        }
    }
}

impl Calls {
    fn halt(&mut self, why: Halt, which: impl Fn(TaskId) -> bool) {
        for ((task, _), call) in &self.running {
            if which(*task) {
                *call.why.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = why;
                call.halt.cancel();
            }
        }
    }
}

/// A panic's message; most are text.
fn panic_text(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without a message".to_owned())
}
