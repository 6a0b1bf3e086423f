//! How often a client may ask: one limiter per kind of request, keyed by who asks.
//!
//! Limits are generous for people, bots and build servers, and there to stop guessing, drains
//! and floods (design 5). They are kept in memory, per process, on a monotonic clock; a restart
//! forgives. What a device may do at all is not decided here. Answers tell what is left
//! ([`allowance`](super::allowance)).
//!
//! | kind     | by                              | rate         | burst |
//! |----------|---------------------------------|--------------|-------|
//! | log-ins  | address (IPv6: its /64 network) | 120 / minute | 120   |
//! | look-ups | device                          | 120 / minute | 60    |
//! | strangers | address, as log-ins            | 120 / minute | 120   |
//! | writes   | device                          | 600 / second | 2,000 |
//! | account  | account, over all its devices   | 2,400 / second | 8,000 |
//! | bytes    | account, KiB written            | 4 MiB / second | 16 MiB |
//!
//! Strangers are requests whose token is refused: whoever guesses tokens is slowed down, and
//! whoever has a good one behind the same address is not.
//!
//! A log-in is two requests, and a build server may send sixty jobs through one address at
//! once; hence the burst.

use std::fmt::{self, Display, Formatter};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use nexo_schema::ids::{AccountId, DeviceId};

use crate::store::Device;

/// Checks of one limiter after which those who have not asked for a while are forgotten:
/// without it the maps would grow for ever.
const SWEEP_EVERY: u32 = 4096;

/// KiB of a write that costs as much as any.
const KIB: usize = 1024;

/// The client asked too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {retry_after} s")]
pub struct RateLimited {
    /// Which allowance is used up.
    pub policy: Policy,
    /// Seconds after which one more request is let through; at least 1.
    pub retry_after: u64,
}

/// An allowance, as a client is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What it is for.
    pub name: &'static str,
    /// What may be used at once.
    pub quota: u32,
    /// Seconds after which all of it is there again.
    pub window: u32,
}

/// As in `RateLimit-Policy`.
impl Display for Policy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { name, quota, window } = self;
        write!(f, "\"{name}\";q={quota};w={window}")
    }
}

/// What is left of an allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Of which.
    pub policy: Policy,
    /// How much, now.
    pub left: u32,
}

impl Policy {
    const fn new(name: &'static str, quota: u32, per_second: u32) -> Self {
        Self { name, quota, window: quota.div_ceil(per_second) }
    }
}

/// The limiters of a server.
pub struct Limits<C: Clock = DefaultClock> {
    on: bool,
    auth: Keyed<IpAddr, C>,
    lookups: Keyed<DeviceId, C>,
    writes: Keyed<DeviceId, C>,
    strangers: Keyed<IpAddr, C>,
    account: Keyed<AccountId, C>,
    bytes: Keyed<AccountId, C>,
}

impl Limits {
    /// All limits, or none (`--rate-limit off`).
    #[must_use]
    pub fn new(on: bool) -> Self {
        Self::with_clock(on, &DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn with_clock(on: bool, clock: &C) -> Self {
        Self {
            on,
            auth: Keyed::new(Policy::new("log-ins", 120, 2), 2, clock),
            lookups: Keyed::new(Policy::new("look-ups", 60, 2), 2, clock),
            writes: Keyed::new(Policy::new("writes", 2000, 600), 600, clock),
            strangers: Keyed::new(Policy::new("strangers", 120, 2), 2, clock),
            account: Keyed::new(Policy::new("account", 8000, 2400), 2400, clock),
            bytes: Keyed::new(Policy::new("kib", 16_384, 4096), 4096, clock),
        }
    }

    /// Counts a request to `/auth/*`, where nobody is known yet.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn auth(&self, address: IpAddr) -> Result<Vec<Left>, RateLimited> {
        self.check(|| Ok(vec![self.auth.check(&network(address))?]))
    }

    /// Counts a look-up: what tells of other accounts or takes their prekeys.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn lookup(&self, device: &DeviceId) -> Result<Vec<Left>, RateLimited> {
        self.check(|| Ok(vec![self.lookups.check(device)?]))
    }

    /// Counts a write: a message or a deletion, over REST or a socket, whose size is counted
    /// besides.
    ///
    /// # Errors
    /// [`RateLimited`]; what the first of the two allowances gave is used all the same.
    pub fn write(&self, device: &Device) -> Result<Vec<Left>, RateLimited> {
        self.check(|| {
            Ok(vec![self.writes.check(&device.id)?, self.account.check(&device.account)?])
        })
    }

    /// Counts the bytes of a write, as a KiB at least.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn bytes(&self, device: &Device, bytes: usize) -> Result<(), RateLimited> {
        let count = bytes.div_ceil(KIB);
        self.check(|| Ok(vec![self.bytes.check_many(&device.account, count)?])).map(drop)
    }

    /// Counts a request whose token was refused.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn stranger(&self, address: IpAddr) -> Result<(), RateLimited> {
        self.check(|| Ok(vec![self.strangers.check(&network(address))?])).map(drop)
    }

    /// Forgets those whose allowance is whole again. Happens by itself every so many checks; a
    /// timer may call it too.
    pub fn sweep(&self) {
        self.auth.sweep();
        self.lookups.sweep();
        self.writes.sweep();
        self.strangers.sweep();
        self.account.sweep();
        self.bytes.sweep();
    }

    /// What the checks say; nothing where there are no limits.
    fn check(
        &self,
        checks: impl FnOnce() -> Result<Vec<Left>, RateLimited>,
    ) -> Result<Vec<Left>, RateLimited> {
        if self.on { checks() } else { Ok(Vec::new()) }
    }
}

type Governor<K, C> = RateLimiter<K, DashMapStateStore<K>, C, StateInformationMiddleware>;

struct Keyed<K: Hash + Eq + Clone, C: Clock> {
    policy: Policy,
    limiter: Governor<K, C>,
    clock: C,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Keyed<K, C> {
    fn new(policy: Policy, per_second: u32, clock: &C) -> Self {
        let quota = Quota::per_second(nonzero(per_second)).allow_burst(nonzero(policy.quota));
        let limiter = RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
        Self { policy, limiter, clock: clock.clone(), checks: AtomicU32::new(0) }
    }

    fn check(&self, key: &K) -> Result<Left, RateLimited> {
        self.check_many(key, 1)
    }

    /// Uses up several at once, at least one.
    fn check_many(&self, key: &K, count: usize) -> Result<Left, RateLimited> {
        self.sweep_at_times();
        let count = nonzero(u32::try_from(count).unwrap_or(u32::MAX));
        match self.limiter.check_key_n(key, count) {
            Ok(Ok(state)) => {
                Ok(Left { policy: self.policy, left: state.remaining_burst_capacity() })
            }
            Ok(Err(not_until)) => Err(self.refused(not_until.wait_time_from(self.clock.now()))),
            // More than there ever is at once; no frame or body is that large.
            Err(_) => Err(self.refused(Duration::from_secs(self.policy.window.into()))),
        }
    }

    fn refused(&self, wait: Duration) -> RateLimited {
        // Rounded up: coming back a moment early would be refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        RateLimited { policy: self.policy, retry_after: seconds.max(1) }
    }

    fn sweep_at_times(&self) {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
    }

    fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

/// Who an address stands for: a subscriber has a whole /64 of IPv6 to draw from, and an IPv4
/// address may come written as IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let bits = u128::from(address) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(bits))
        }
    }
}

const fn nonzero(n: u32) -> NonZeroU32 {
    match NonZeroU32::new(n) {
        Some(n) => n,
        None => NonZeroU32::MIN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use nexo_schema::ids::Handle;

    fn limits() -> (Limits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limits::with_clock(true, &clock), clock)
    }

    fn device(name: &str, account: u8) -> Device {
        Device {
            id: DeviceId::parse(name).unwrap(),
            account: AccountId([account; 32]),
            native: false,
            handle: Handle::parse("al").unwrap(),
            key: [0; 32],
            x25519: [0; 32],
            caps: 0,
            not_after: 0,
            revoked: false,
            account_index: 1,
            conversations: Vec::new(),
        }
    }

    #[test]
    fn a_burst_passes_and_then_two_requests_a_second() {
        let (limits, clock) = limits();
        let alice = IpAddr::from([192, 0, 2, 1]);
        let policy = Policy { name: "log-ins", quota: 120, window: 60 };
        for left in (0..120).rev() {
            assert_eq!(limits.auth(alice), Ok(vec![Left { policy, left }]));
        }
        assert_eq!(limits.auth(alice), Err(RateLimited { policy, retry_after: 1 }));
        assert!(limits.auth(IpAddr::from([192, 0, 2, 2])).is_ok());
        clock.advance(Duration::from_secs(1));
        assert!(limits.auth(alice).is_ok());
        assert!(limits.auth(alice).is_ok());
        assert!(limits.auth(alice).is_err());
    }

    #[test]
    fn devices_have_allowances_of_their_own() {
        let (limits, _clock) = limits();
        let (one, two) = (device("one", 1), device("two", 2));
        type Asked = Result<Vec<Left>, RateLimited>;
        let passed = |go: &dyn Fn() -> Asked| (0..9000).filter(|_| go().is_ok()).count();
        assert_eq!(passed(&|| limits.lookup(&one.id)), 60);
        assert_eq!(passed(&|| limits.write(&one)), 2000);
        assert!(limits.lookup(&two.id).is_ok());
        assert!(limits.write(&two).is_ok());
    }

    #[test]
    fn an_account_has_one_allowance_however_many_devices_it_has() {
        let (limits, _clock) = limits();
        let devices = ["a", "b", "c", "d", "e", "f"].map(|name| device(name, 1));
        let mut passed = 0;
        for device in &devices {
            passed += (0..2000).filter(|_| limits.write(device).is_ok()).count();
        }
        assert_eq!(passed, 8000);
        assert!(limits.write(&device("g", 2)).is_ok());
    }

    #[test]
    fn bytes_are_counted_whoever_writes_them() {
        let (limits, clock) = limits();
        let (one, two) = (device("one", 1), device("two", 1));
        let large = 256 * KIB;
        let passed = (0..600).filter(|n| limits.bytes([&one, &two][n % 2], large).is_ok()).count();
        assert_eq!(passed, 64, "16 MiB");
        let refused = limits.bytes(&one, large).unwrap_err();
        assert_eq!((refused.policy.name, refused.policy.window), ("kib", 4));
        clock.advance(Duration::from_secs(1));
        let passed = (0..600).filter(|_| limits.bytes(&one, large).is_ok()).count();
        assert_eq!(passed, 16, "4 MiB a second");
        // More than is ever there at once is refused, not a panic.
        assert!(limits.bytes(&device("three", 3), usize::MAX).is_err());
    }

    #[test]
    fn who_is_refused_often_is_slowed_down_alone() {
        let (limits, _clock) = limits();
        let [one, two] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        assert_eq!((0..200).filter(|_| limits.stranger(one).is_ok()).count(), 120);
        assert!(limits.stranger(two).is_ok() && limits.auth(one).is_ok());
    }

    #[test]
    fn an_ipv6_subscriber_is_one_client() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(network(ip("2001:db8:1:2:3::4")), network(ip("2001:db8:1:2:ffff::1")));
        assert_ne!(network(ip("2001:db8:1:2::1")), network(ip("2001:db8:1:3::1")));
        assert_eq!(network(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_ne!(network(ip("192.0.2.1")), network(ip("192.0.2.2")));
    }

    #[test]
    fn switched_off_nothing_is_counted() {
        let limits = Limits::new(false);
        for _ in 0..5000 {
            assert!(limits.auth(IpAddr::from([192, 0, 2, 1])).is_ok());
        }
        assert_eq!(limits.auth.limiter.len(), 0);
    }

    #[test]
    fn those_who_stay_away_are_forgotten() {
        let (limits, clock) = limits();
        for last in 0..=255 {
            assert!(limits.auth(IpAddr::from([192, 0, 2, last])).is_ok());
        }
        assert_eq!(limits.auth.limiter.len(), 256);
        limits.sweep();
        assert_eq!(limits.auth.limiter.len(), 256);
        clock.advance(Duration::from_secs(120));
        let alice = IpAddr::from([192, 0, 3, 1]);
        for _ in 256..SWEEP_EVERY {
            let _ = limits.auth(alice);
        }
        assert_eq!(limits.auth.limiter.len(), 1);
    }
}
