//! Messages under load to a receiver that is killed, from a relay that is killed, over a network
//! that cuts, stands still and loses answers: each comes out, in order, and to a file once.
//!
//! The normal tests run it for seconds, `scripts/tail-kills` for as long as it is asked to.
//! `NEXO_TAIL_KILLS` is the length of each part in seconds, `NEXO_TAIL_RATE` the messages per
//! second that are written to `send --stdin-lines`, `NEXO_TAIL_TROUBLE` one of `Receiver`, `Server`
//! and `Network`, for that one alone. Latency is from that line to the line of
//! `tail`, with all that waits in between.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::proxy::World;
use crate::harness::shell::Person;
use crate::harness::{Engine, Way, text};

/// How long the last messages may take to arrive.
const PATIENCE: &str = "300";

/// What happens all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The receiver is killed every second.
    Receiver,
    /// The relay is killed every five seconds.
    Server,
    /// The network between relay and receiver does what networks do.
    Network,
}

/// Where messages come out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    /// At least once.
    Stdout,
    /// Exactly once.
    File,
}

#[derive(Clone, Copy)]
struct Load {
    length: Duration,
    /// Messages per second.
    rate: u64,
}

/// Writes lines `<number> <microseconds since the start>` until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Writer {
    fn start(mut to: ChildStdin, rate: u64, epoch: Instant) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (began, mut count) = (Instant::now(), 0u64);
            while !stopped.load(Ordering::Relaxed) {
                let due = began.elapsed().as_millis() * u128::from(rate) / 1000;
                let mut lines = String::new();
                while u128::from(count) < due {
                    lines += &format!("{count} {}\n", epoch.elapsed().as_micros());
                    count += 1;
                }
                to.write_all(lines.as_bytes()).unwrap();
                sleep(Duration::from_millis(2));
            }
            count
        });
        Self { stop, thread }
    }

    /// How many lines there were; the last one is followed by the end.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Lines of receivers, with the moment at which each came.
type Lines = Arc<Mutex<Vec<(u128, String)>>>;

/// A program whose lines are kept, and that can be killed.
struct Program {
    child: Child,
    reader: JoinHandle<()>,
    /// What it said on stderr.
    complaints: JoinHandle<String>,
}

impl Program {
    fn start(command: &mut Command, lines: &Lines, epoch: Instant) -> Self {
        Self::running(command.stdin(Stdio::null()), lines, epoch)
    }

    /// As [`Program::start`], with its input to be written.
    fn fed(command: &mut Command, lines: &Lines, epoch: Instant) -> (Self, ChildStdin) {
        let mut program = Self::running(command.stdin(Stdio::piped()), lines, epoch);
        let stdin = program.child.stdin.take().unwrap();
        (program, stdin)
    }

    fn running(command: &mut Command, lines: &Lines, epoch: Instant) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let complaints = thread::spawn(move || {
            let mut text = String::new();
            let _ = stderr.read_to_string(&mut text);
            text
        });
        let (stdout, lines) = (BufReader::new(child.stdout.take().unwrap()), Arc::clone(lines));
        let reader = thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                lines.lock().unwrap().push((epoch.elapsed().as_micros(), line));
            }
        });
        Self { child, reader, complaints }
    }

    /// Waits until it ends by itself, which its own deadline sees to.
    fn ended(mut self) {
        let ended = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let said = self.complaints.join().unwrap();
        assert!(ended.success(), "{ended}: {said}");
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.join().unwrap();
    }
}

/// What came of one part.
struct Report {
    sent: u64,
    /// Until the last of them was acknowledged.
    length: Duration,
    troubles: usize,
    repeats: u64,
    latencies: Vec<u128>,
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { sent, length, troubles, repeats, latencies } = self;
        let rate = *sent as f64 / length.as_secs_f64();
        write!(f, "{sent} messages, {rate:.0}/s, {troubles} troubles, {repeats} repeats")?;
        if latencies.is_empty() {
            return Ok(());
        }
        let at = |share: usize| latencies[(latencies.len() - 1) * share / 1000] as f64 / 1000.0;
        write!(f, "; ms p50 {:.1}, p99 {:.1}, max {:.1}", at(500), at(990), at(1000))
    }
}

fn part(trouble: Trouble, sink: Sink, load: Load) -> Report {
    let mut world = World::new(Engine::Sqlite);
    let (alice, bob) = world.people();
    let (epoch, lines) = (Instant::now(), Lines::default());
    let out = bob.file("out.jsonl");
    let send = ["--timeout", PATIENCE, "send", "bob", "--stdin-lines"];
    let acks = Lines::default();
    let (sender, stdin) = Program::fed(&mut alice.command(&send), &acks, epoch);
    let writer = Writer::start(stdin, load.rate, epoch);
    let mut follow = command(&bob, sink, &out, true);
    let mut receiver = Program::start(&mut follow, &lines, epoch);
    let mut troubles = 0;
    while epoch.elapsed() < load.length {
        match trouble {
            Trouble::Receiver => {
                sleep(Duration::from_secs(1));
                receiver.kill();
                receiver = Program::start(&mut follow, &lines, epoch);
            }
            Trouble::Server => {
                sleep(Duration::from_secs(5).min(load.length / 2));
                world.restart();
            }
            Trouble::Network => trouble_network(&world, troubles),
        }
        troubles += 1;
    }
    world.rough.set(Way::Open);
    let sent = writer.stop();
    sender.ended();
    assert_eq!(acks.lock().unwrap().len() as u64, sent, "each line is told of");
    let length = epoch.elapsed();
    receiver.kill();
    Program::start(&mut command(&bob, sink, &out, false), &lines, epoch).ended();
    world.server.sound();
    let report = match sink {
        Sink::Stdout => judge(std::mem::take(&mut *lines.lock().unwrap())),
        Sink::File => once(&out),
    };
    assert_eq!(report.sent, sent, "nothing is lost");
    Report { troubles, length, ..report }
}

fn command(bob: &Person, sink: Sink, out: &Path, follow: bool) -> Command {
    let mut args = match follow {
        true => vec!["tail", "--json", "--follow"],
        false => vec!["tail", "--json", "--timeout", PATIENCE],
    };
    if sink == Sink::File {
        args.extend(["--output", out.to_str().unwrap()]);
    }
    bob.command(&args)
}

/// One thing after another that a network does, each until somebody notices it.
fn trouble_network(world: &World, number: usize) {
    let way = [Way::Open, Way::Stalled, Way::Deaf][number % 3];
    sleep(Duration::from_millis(700));
    let made = world.rough.made();
    world.rough.set(way);
    if way != Way::Open {
        world.rough.made_more(made);
    }
    world.rough.cut();
    world.rough.set(Way::Open);
}

/// Number and writing time of a message, and who it is.
fn read(line: &str) -> Option<(u64, u128, (String, String))> {
    let object: Value = serde_json::from_str(line).ok()?;
    // What became of a session is no message.
    let words = object["text"].as_str()?;
    let (number, at) = words.split_once(' ').unwrap();
    let id = (text(&object["msg_id"]), text(&object["sth_index"]));
    Some((number.parse().unwrap(), at.parse().unwrap(), id))
}

/// Every message at least once, the first times in order, repeats under the same id.
fn judge(lines: Vec<(u128, String)>) -> Report {
    let (mut seen, mut latencies, mut repeats) = (BTreeMap::new(), Vec::new(), 0);
    for (came, line) in lines {
        let Some((number, written, id)) = read(&line) else { continue };
        match seen.get(&number) {
            Some(before) => {
                assert_eq!(*before, id, "a repeat has the id of the first time");
                repeats += 1;
            }
            None => {
                assert_eq!(number, seen.len() as u64, "in order");
                seen.insert(number, id);
                latencies.push(came - written);
            }
        }
    }
    latencies.sort_unstable();
    let (sent, length) = (seen.len() as u64, Duration::ZERO);
    Report { sent, length, troubles: 0, repeats, latencies }
}

/// Every message exactly once and in order.
fn once(path: &Path) -> Report {
    let lines = BufReader::new(File::open(path).unwrap()).lines().map(Result::unwrap);
    let report = judge(lines.map(|line| (u128::MAX, line)).collect());
    assert_eq!(report.repeats, 0, "each of them once");
    Report { latencies: Vec::new(), ..report }
}

const SHORT: Load = Load { length: Duration::from_secs(3), rate: 60 };

#[test]
fn a_killed_receiver_misses_nothing() {
    println!("{}", part(Trouble::Receiver, Sink::Stdout, SHORT));
}

#[test]
fn a_killed_receiver_writes_each_message_once() {
    println!("{}", part(Trouble::Receiver, Sink::File, SHORT));
}

#[test]
fn a_killed_relay_costs_nothing() {
    println!("{}", part(Trouble::Server, Sink::File, SHORT));
}

#[test]
fn a_bad_network_costs_nothing() {
    let report = part(Trouble::Network, Sink::Stdout, SHORT);
    assert_eq!(report.repeats, 0, "tail itself lived: {report}");
}

#[test]
#[ignore = "takes minutes; scripts/tail-kills runs it"]
fn under_load() {
    let setting =
        |name: &str, default| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let length = Duration::from_secs(setting("NEXO_TAIL_KILLS", 60));
    let load = Load { length, rate: setting("NEXO_TAIL_RATE", 1000) };
    let only = std::env::var("NEXO_TAIL_TROUBLE").ok();
    let all = [Trouble::Receiver, Trouble::Server, Trouble::Network];
    let named =
        |trouble: &Trouble| only.as_ref().is_none_or(|only| *only == format!("{trouble:?}"));
    for trouble in all.into_iter().filter(named) {
        for sink in [Sink::Stdout, Sink::File] {
            println!("{trouble:?} to {sink:?}: {}", part(trouble, sink, load));
        }
    }
}
