//! Clients that keep sending to servers which vanish or refuse, what they were told, and whether
//! it was true.
//!
//! What a client was told is a promise: afterwards each acknowledged message is where the
//! acknowledgement said, every head that anyone saw is a prefix of the one served now, the
//! indexes have no gap, and what was not acknowledged can be sent again without doubling it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nexo_audit::checkpoint::Checkpoint;
use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Instant, timeout};

use super::reader::Reader;
pub(crate) use super::sender::{LATER, Seen};
use super::sender::{Work, body, watch};
use super::{DEADLINE, Plain, Server, number, text};

/// All that clients were told.
#[derive(Default)]
pub(crate) struct Told {
    /// Entries that were in the log before: none of these messages is among them.
    before: u64,
    messages: BTreeMap<u64, String>,
    heads: BTreeSet<String>,
    lost: Vec<(usize, String)>,
}

impl Told {
    /// Nothing yet, of a log that has `size` entries.
    pub(crate) fn since(size: u64) -> Self {
        Self { before: size, ..Self::default() }
    }

    /// Keeps what a client saw.
    pub(crate) fn note(&mut self, seen: Seen) {
        match seen {
            Seen::Acked { msg_id, index, .. } => {
                let before = self.messages.insert(index, msg_id.clone());
                assert!(before.is_none_or(|m| m == msg_id), "two messages at {index}");
            }
            Seen::Head(note) => drop(self.heads.insert(note)),
            Seen::Refused { .. } => {}
            Seen::Lost { who, msg_id } => self.lost.push((who, msg_id)),
        }
    }

    /// Adds what clients were told later.
    pub(crate) fn append(&mut self, mut later: Self) {
        self.messages.append(&mut later.messages);
        self.heads.append(&mut later.heads);
        self.lost.append(&mut later.lost);
    }
}

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { messages, heads, .. } = self;
        write!(f, "{} messages and {} heads", messages.len(), heads.len())
    }
}

/// Senders, each with a conversation with the hub.
pub(crate) struct Crew {
    hub: Plain,
    senders: Vec<(Plain, String)>,
    /// So many of them send over REST, the others over sockets.
    rest: usize,
    /// Entries in the log before the first message.
    accounts: u64,
}

impl Crew {
    /// Makes their accounts, on a server that had none.
    pub(crate) async fn new(server: &Server, rest: usize, sockets: usize) -> Self {
        let hub = Plain::new(server, "hub").await;
        let mut senders = Vec::new();
        for number in 0..rest + sockets {
            let sender = Plain::new(server, &format!("sender{number}")).await;
            let conv = sender.conversation("hub").await;
            senders.push((sender, conv));
        }
        let accounts = senders.len() as u64 + 1;
        Self { hub, senders, rest, accounts }
    }

    /// A sender and its conversation.
    pub(crate) fn sender(&self, who: usize) -> (&Plain, &str) {
        let (sender, conv) = &self.senders[who];
        (sender, conv)
    }

    /// Starts all of them, sender n at server n (and around), and somebody at each server who
    /// watches its head. Messages are named after the round.
    pub(crate) async fn load(&self, servers: &[&Server], round: usize) -> Load {
        let (tell, seen) = unbounded_channel();
        let stop = Arc::new(AtomicBool::new(false));
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().unwrap();
        for (who, (sender, conv)) in self.senders.iter().enumerate() {
            let work = Work {
                who,
                round,
                url: servers[who % servers.len()].url().to_owned(),
                token: sender.token().to_owned(),
                conv: conv.clone(),
                stop: Arc::clone(&stop),
                tell: tell.clone(),
            };
            if who < self.rest {
                tokio::spawn(work.over_rest(http.clone()));
            } else {
                let socket = work.socket().await.unwrap();
                tokio::spawn(work.over_a_socket(socket));
            }
        }
        for server in servers {
            let url = format!("{}/checkpoint", server.url());
            tokio::spawn(watch(http.clone(), url, Arc::clone(&stop), tell.clone()));
        }
        Load { seen, stop }
    }

    /// Holds a server to all that any server has said.
    pub(crate) async fn check(&self, server: &Server, told: &Told) {
        let reader = Reader::of(server);
        let before = told.before.max(self.accounts);
        let (head, stored) = self.settled(server, &reader, before).await;
        for (index, msg_id) in &told.messages {
            assert_eq!(stored.get(index), Some(msg_id), "the message acknowledged at {index}");
        }
        let places: Vec<u64> = stored.keys().copied().collect();
        assert_eq!(places, (before + 1..=head.size).collect::<Vec<_>>(), "no gap");
        let once: BTreeSet<_> = stored.values().collect();
        assert_eq!(once.len(), stored.len(), "no message twice");
        let mut heads: Vec<_> = told.heads.iter().map(|note| reader.open(note)).collect();
        heads.sort_by_key(|head| head.size);
        // The time is renewed under the same head; equal ones need one proof.
        heads.dedup();
        for pair in heads.windows(2) {
            assert_ne!(pair[0].size, pair[1].size, "a fork: two heads of one size");
        }
        for old in &heads {
            reader.extends(old, &head).await;
        }
    }

    /// Sends what was never answered once more, under its id: it is there once, wherever it was
    /// when the power went.
    pub(crate) async fn send_again(&self, server: &Server, told: &mut Told) {
        let before = self.stored(server, told.before).await;
        let before: BTreeSet<String> = before.into_values().collect();
        for (who, msg_id) in std::mem::take(&mut told.lost) {
            let (sender, conv) = &self.senders[who];
            let again = match who < self.rest {
                true => body(conv, &msg_id),
                // What came as {c,n} is stored as n || c.
                false => {
                    let cipher = [&[7; 24], msg_id.as_bytes()].concat();
                    json!({"conv_id": conv, "msg_id": msg_id, "ad": {"ts": 1, "type": "text"},
                           "cipher": nexo_schema::bytes::to_base64(&cipher)})
                }
            };
            let size = Reader::of(server).head().await.checkpoint.size;
            let wire = server.wire().with_token(sender.token());
            let answer = wire.post("/messages", &again).await.ok();
            let index = number(&answer["message"]["sth_index"]);
            assert_eq!(answer["duplicate"], before.contains(&msg_id), "{answer}");
            if !before.contains(&msg_id) {
                assert_eq!(index, size + 1, "the next place");
            }
            told.note(Seen::Acked { who, msg_id, index });
        }
    }

    /// The head and the messages under it, once the head covers all of them: a server learns of
    /// another's batches a moment after they are stored.
    async fn settled(
        &self,
        server: &Server,
        reader: &Reader,
        before: u64,
    ) -> (Checkpoint, BTreeMap<u64, String>) {
        let end = Instant::now() + DEADLINE;
        loop {
            let stored = self.stored(server, before).await;
            let head = reader.head().await.checkpoint;
            if stored.keys().last().is_none_or(|last| *last == head.size) {
                return (head, stored);
            }
            assert!(Instant::now() < end, "{} is not the end of what is stored", head.size);
        }
    }

    /// Every message behind the first `after` entries of the log, by its index, as the hub
    /// reads it.
    async fn stored(&self, server: &Server, mut after: u64) -> BTreeMap<u64, String> {
        let (mut found, mut more) = (BTreeMap::new(), true);
        let wire = server.wire().with_token(self.hub.token());
        while more {
            let page = wire.get(&format!("/messages?after={after}&limit=1000")).await.ok();
            for item in page["items"].as_array().unwrap() {
                found.insert(number(&item["sth_index"]), text(&item["msg_id"]));
            }
            after = number(&page["next"]);
            more = page["more"].as_bool().unwrap();
        }
        found
    }
}

/// A running load.
pub(crate) struct Load {
    seen: UnboundedReceiver<Seen>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// What some client saw next; `None` when all have ended.
    pub(crate) async fn next(&mut self) -> Option<Seen> {
        timeout(DEADLINE, self.seen.recv()).await.expect("the clients are answered in time")
    }

    /// Notes what is seen until `count` messages are acknowledged.
    pub(crate) async fn acks(&mut self, told: &mut Told, count: usize) {
        let end = Instant::now() + DEADLINE;
        let mut acked = 0;
        while acked < count {
            let seen = self.next().await.expect("the load goes on");
            acked += usize::from(seen.acked().is_some());
            told.note(seen);
            // Heads go on coming from a server that takes no messages.
            assert!(Instant::now() < end, "{acked} of {count} messages were acknowledged");
        }
    }

    /// Notes what has been seen up to now, and then until `event` was seen by each of these
    /// senders so many times.
    pub(crate) async fn each(
        &mut self,
        told: &mut Told,
        senders: &[usize],
        times: usize,
        event: fn(&Seen) -> Option<usize>,
    ) {
        while let Ok(seen) = self.seen.try_recv() {
            told.note(seen);
        }
        let end = Instant::now() + DEADLINE;
        let mut left: BTreeMap<usize, usize> = senders.iter().map(|who| (*who, times)).collect();
        while !left.is_empty() {
            let seen = self.next().await.expect("the load goes on");
            if let Some(who) = event(&seen)
                && let Some(count) = left.get_mut(&who)
            {
                *count -= 1;
                left.retain(|_, count| *count > 0);
            }
            told.note(seen);
            assert!(Instant::now() < end, "these senders wait in vain: {left:?}");
        }
    }

    /// Lets every client end what it has begun, and notes what they saw.
    pub(crate) async fn end(mut self, told: &mut Told) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(seen) = self.next().await {
            told.note(seen);
        }
    }

    /// Notes what is seen until every client has noticed that its server is gone.
    pub(crate) async fn all_lost(mut self, told: &mut Told) {
        while let Some(seen) = self.next().await {
            told.note(seen);
        }
    }
}
