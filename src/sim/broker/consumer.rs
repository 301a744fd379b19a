//! One JetStream consumer, as nats-server 2.15.1 was measured to run it, without any clock or network of its own.
//!
//! Each rule here was seen on the real server:
//!
//! - `backoff` overrides `ack_wait`: with `ack_wait` 300 s and `backoff` [30, 120, 300] s the server redelivers 30 s after
//!   the first delivery, whether the worker still works or not ("the server silently sets ack_wait to 30 s").
//! - "A healthy 4-minute task under it is executed 3 times, at 0, 30 and 150 s."
//! - "After the last delivery the max-deliveries advisory is not sent when the time is up but only when somebody next
//!   pulls on that consumer; a consumer nobody pulls stays silent for good." It is sent once.
//! - After it "the message stays asleep in the work-queue stream": nobody is ever given it again.
//! - "An ack from a worker whose lease has passed, after redelivery, is accepted by the server."
//!
//! Seed B's workers send no NAK, so none is here: what fails is left in silence until its time is up.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What of a consumer's configuration matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// Deliveries of one message, at most.
    pub max_deliver: u32,
    /// How long a delivery may go unacknowledged when there is no `backoff`.
    pub ack_wait: Duration,
    /// How long the n-th delivery may; the last counts for all that follow.
    pub backoff: Vec<Duration>,
}

impl ConsumerConfig {
    /// Seed B's: 3 deliveries, 5 minutes, and the 30 s, 2 min and 5 min that override them.
    #[must_use]
    pub fn seed_b() -> Self {
        Self {
            max_deliver: 3,
            ack_wait: Duration::from_secs(300),
            backoff: [30, 120, 300].map(Duration::from_secs).to_vec(),
        }
    }

    /// How long the n-th delivery may go unacknowledged, the first = 1.
    #[must_use]
    pub fn waits(&self, delivery: u32) -> Duration {
        let place = usize::try_from(delivery.saturating_sub(1)).unwrap_or(usize::MAX);
        self.backoff.get(place).or(self.backoff.last()).copied().unwrap_or(self.ack_wait)
    }
}

/// One consumer and the messages of its subject.
#[derive(Clone, Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    /// Not delivered yet, in the order of the stream.
    fresh: VecDeque<u64>,
    /// Delivered and not acknowledged: how often, and until when it may be.
    pending: BTreeMap<u64, (u32, Duration)>,
    /// Delivered as often as it may be, told of, and never given to anybody again.
    asleep: Vec<u64>,
}

/// What a pull brings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Messages of which the server says now that their deliveries are used up.
    pub advisories: Vec<u64>,
    /// A message, and which delivery of it this is, first = 1.
    pub message: Option<(u64, u32)>,
}

impl Consumer {
    /// A consumer without messages.
    #[must_use]
    pub fn new(config: ConsumerConfig) -> Self {
        Self { config, fresh: VecDeque::new(), pending: BTreeMap::new(), asleep: Vec::new() }
    }

    /// A message comes, under its number in the stream.
    pub fn publish(&mut self, message: u64) {
        self.fresh.push_back(message);
    }

    /// Somebody pulls one message. What is to be redelivered goes first, the longest due of it first.
    pub fn pull(&mut self, now: Duration) -> Pulled {
        let mut pulled = Pulled::default();
        loop {
            let due = self.pending.iter().filter(|(_, (_, until))| *until <= now);
            let due = due.min_by_key(|(message, (_, until))| (*until, **message));
            let (message, delivery) = match due.map(|(message, (deliveries, _))| (*message, *deliveries)) {
                Some((message, deliveries)) if deliveries >= self.config.max_deliver => {
                    self.pending.remove(&message);
                    self.asleep.push(message);
                    pulled.advisories.push(message);
                    continue;
                }
                Some((message, deliveries)) => (message, deliveries + 1),
                None => match self.fresh.pop_front() {
                    Some(message) => (message, 1),
                    None => return pulled,
                },
            };
            self.pending.insert(message, (delivery, now + self.config.waits(delivery)));
            pulled.message = Some((message, delivery));
            return pulled;
        }
    }

    /// A worker acknowledges; also one whose time is up. The message is gone.
    pub fn ack(&mut self, message: u64) {
        self.pending.remove(&message);
        self.asleep.retain(|asleep| *asleep != message);
    }

    /// When a pull next brings something, if it does not now.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        if self.fresh.is_empty() { self.pending.values().map(|(_, until)| *until).min() } else { Some(Duration::ZERO) }
    }

    /// Messages that nobody will ever be given again.
    #[must_use]
    pub fn asleep(&self) -> &[u64] {
        &self.asleep
    }

    /// Messages that wait to be delivered, or to be acknowledged.
    #[must_use]
    pub fn open(&self) -> usize {
        self.fresh.len() + self.pending.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// The moments at which one message is delivered to somebody who pulls every second and never acknowledges.
    fn deliveries(config: &ConsumerConfig, until: u64) -> (Vec<u64>, Vec<u64>) {
        let mut consumer = Consumer::new(config.clone());
        consumer.publish(1);
        let (mut delivered, mut told) = (Vec::new(), Vec::new());
        for second in 0..=until {
            let pulled = consumer.pull(secs(second));
            delivered.extend(pulled.message.map(|_| second));
            told.extend(pulled.advisories.iter().map(|_| second));
        }
        (delivered, told)
    }

    #[test]
    fn backoff_overrides_ack_wait() {
        let seed_b = ConsumerConfig::seed_b();
        let without = ConsumerConfig { backoff: Vec::new(), ..seed_b.clone() };
        let once = ConsumerConfig { max_deliver: 1, ..seed_b.clone() };
        let five = ConsumerConfig { max_deliver: 5, ..seed_b.clone() };
        for (name, config, delivered, told) in [
            ("seed B: 30 s and 2 min, told after 5 min more", seed_b, vec![0, 30, 150], vec![450]),
            ("ack_wait alone", without, vec![0, 300, 600], vec![900]),
            ("one delivery", once, vec![0], vec![30]),
            ("the last of `backoff` counts for all that follow", five, vec![0, 30, 150, 450, 750], vec![1050]),
        ] {
            assert_eq!(deliveries(&config, 1_200), (delivered, told), "{name}");
        }
    }

    #[test]
    fn a_healthy_task_of_four_minutes_is_executed_three_times() {
        let mut consumer = Consumer::new(ConsumerConfig::seed_b());
        consumer.publish(7);
        let mut begun = Vec::new();
        for second in 0..=240 {
            begun.extend(consumer.pull(secs(second)).message);
        }
        consumer.ack(7);
        assert_eq!(begun, [(7, 1), (7, 2), (7, 3)]);
        assert_eq!((consumer.open(), consumer.pull(secs(900))), (0, Pulled::default()));
    }

    #[test]
    fn nobody_is_told_until_somebody_pulls_and_then_once() {
        let mut consumer = Consumer::new(ConsumerConfig::seed_b());
        consumer.publish(7);
        for second in [0, 30, 150] {
            assert_eq!(consumer.pull(secs(second)).advisories, Vec::<u64>::new(), "{second} s");
        }
        // The time was up at 450 s; nobody pulled until the next day.
        assert_eq!(consumer.pull(secs(86_400)), Pulled { advisories: vec![7], message: None });
        assert_eq!(consumer.pull(secs(90_000)), Pulled::default());
        assert_eq!((consumer.asleep(), consumer.open()), (&[7][..], 0));
    }

    #[test]
    fn a_late_ack_is_taken_also_while_another_works_on_it() {
        let mut consumer = Consumer::new(ConsumerConfig::seed_b());
        consumer.publish(7);
        assert_eq!(consumer.pull(secs(0)).message, Some((7, 1)));
        assert_eq!(consumer.pull(secs(31)).message, Some((7, 2)));
        // The first worker is done 15 s after it lost the message to the second.
        consumer.ack(7);
        assert_eq!((consumer.open(), consumer.next_due()), (0, None));
    }

    #[test]
    fn what_is_due_again_goes_before_what_is_new() {
        let mut consumer = Consumer::new(ConsumerConfig::seed_b());
        for message in [1, 2, 3] {
            consumer.publish(message);
        }
        assert_eq!(consumer.next_due(), Some(Duration::ZERO));
        assert_eq!(consumer.pull(secs(0)).message, Some((1, 1)));
        assert_eq!(consumer.pull(secs(5)).message, Some((2, 1)));
        assert_eq!(consumer.pull(secs(30)).message, Some((1, 2)));
        assert_eq!(consumer.pull(secs(30)).message, Some((3, 1)));
        assert_eq!(consumer.next_due(), Some(secs(35)));
    }
}
