//! A network between a client and a server, which is cut, stands still, or loses the answers.
//!
//! It copies bytes, and knows nothing of what they mean. A client behind it that was cut off
//! comes back and repeats what it cannot know to have arrived.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use super::shell::Person;
use super::{DEADLINE, Engine, Server};

/// What happens to what is on its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Way {
    /// It arrives.
    #[default]
    Open,
    /// Connections stand, and nothing arrives.
    Stalled,
    /// What the client says arrives, and no answer does.
    Deaf,
}

#[derive(Default)]
struct State {
    target: Option<String>,
    way: Way,
    /// Both ends of every connection that was made.
    ends: Vec<TcpStream>,
    /// Connections that were made, ever, and how often all of them were cut.
    made: usize,
    cuts: usize,
}

/// The network. Connections end with the program.
pub(crate) struct Proxy {
    url: String,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Proxy {
    /// A network that leads nowhere yet.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new((Mutex::<State>::default(), Condvar::new()));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                join(client, &shared);
            }
        });
        Self { url, state }
    }

    /// `http://127.0.0.1:<port>`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Leads to this `<host>:<port>` from now on.
    pub(crate) fn lead_to(&self, address: &str) {
        self.state().target = Some(address.to_owned());
    }

    /// Says what happens to what is on its way, old connections and new ones alike.
    pub(crate) fn set(&self, way: Way) {
        self.state().way = way;
        self.state.1.notify_all();
    }

    /// Ends every connection at once, for both sides.
    pub(crate) fn cut(&self) {
        let mut state = self.state();
        state.cuts += 1;
        for end in state.ends.drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.state.1.notify_all();
    }

    /// Connections that were made so far.
    pub(crate) fn made(&self) -> usize {
        self.state().made
    }

    /// Waits until more connections than these were made.
    pub(crate) fn made_more(&self, than: usize) {
        let guard = self.state();
        let (state, waited) =
            self.state.1.wait_timeout_while(guard, DEADLINE, |state| state.made <= than).unwrap();
        assert!(!waited.timed_out(), "no more than {} connections", state.made);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap()
    }
}

/// A relay with two networks before it: one that stays as it is, and one that a test troubles.
pub(crate) struct World {
    pub(crate) server: Server,
    pub(crate) calm: Proxy,
    pub(crate) rough: Proxy,
}

impl World {
    /// The relay pings every second, so that silence is soon noticed.
    pub(crate) fn new(engine: Engine) -> Self {
        let (calm, rough) = (Proxy::new(), Proxy::new());
        let args = format!("--ping-every 1 --public-url {},{}", calm.url(), rough.url());
        let server = engine.setup().args(&args).start();
        calm.lead_to(server.address());
        rough.lead_to(server.address());
        Self { server, calm, rough }
    }

    /// Alice in the calm, Bob in the rough.
    pub(crate) fn people(&self) -> (Person, Person) {
        self.registered(&self.calm, &self.rough)
    }

    /// Alice in the rough, Bob in the calm.
    pub(crate) fn people_the_other_way(&self) -> (Person, Person) {
        self.registered(&self.rough, &self.calm)
    }

    fn registered(&self, hers: &Proxy, his: &Proxy) -> (Person, Person) {
        let (alice, bob) = (Person::behind(hers.url()), Person::behind(his.url()));
        alice.nexo(&["register", "alice"]).ok();
        bob.nexo(&["register", "bob"]).ok();
        (alice, bob)
    }

    /// Kills the relay, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.server.kill9();
        self.server.restart();
    }
}

/// Connects a client through, if there is somewhere to connect it to.
fn join(client: TcpStream, state: &Arc<(Mutex<State>, Condvar)>) {
    let mut guard = state.0.lock().unwrap();
    guard.made += 1;
    state.1.notify_all();
    let Some(Ok(server)) = guard.target.as_ref().map(TcpStream::connect) else { return };
    for end in [&client, &server] {
        end.set_nodelay(true).unwrap();
        guard.ends.push(end.try_clone().unwrap());
    }
    let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    drop(guard);
    copy(from_client, to_server, [Way::Stalled, Way::Stalled], Arc::clone(state));
    copy(server, client, [Way::Stalled, Way::Deaf], Arc::clone(state));
}

/// Copies one direction, but for as long as the way is one of `closed`.
fn copy(
    mut from: TcpStream,
    mut to: TcpStream,
    closed: [Way; 2],
    state: Arc<(Mutex<State>, Condvar)>,
) {
    thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        let cuts = state.0.lock().unwrap().cuts;
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let began = Instant::now();
            let mut guard = state.0.lock().unwrap();
            while closed.contains(&guard.way) && guard.cuts == cuts && began.elapsed() < DEADLINE {
                guard = state.1.wait_timeout(guard, DEADLINE).unwrap().0;
            }
            drop(guard);
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
