//! How often a client may ask: one limiter per kind of request, keyed by who asks.
//!
//! Limits are generous for people, bots and build servers, and there to stop guessing, drains
//! and floods (design 5). They are kept in memory, per process, on a monotonic clock; a restart
//! forgives. What a device may do at all is not decided here.
//!
//! | kind     | by                              | rate         | burst |
//! |----------|---------------------------------|--------------|-------|
//! | log-ins  | address (IPv6: its /64 network) | 120 / minute | 120   |
//! | look-ups | device                          | 120 / minute | 60    |
//! | writes   | device                          | 600 / second | 2,000 |
//!
//! A log-in is two requests, and a build server may send sixty jobs through one address at
//! once; hence the burst.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use nexo_schema::ids::DeviceId;

/// Checks of one limiter after which those who have not asked for a while are forgotten:
/// without it the maps would grow for ever.
const SWEEP_EVERY: u32 = 4096;

/// The client asked too often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {retry_after} s")]
pub struct RateLimited {
    /// Seconds after which one more request is let through; at least 1.
    pub retry_after: u64,
}

/// The limiters of a server.
pub struct Limits<C: Clock = DefaultClock> {
    on: bool,
    auth: Keyed<IpAddr, C>,
    lookups: Keyed<DeviceId, C>,
    writes: Keyed<DeviceId, C>,
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
        let per_minute = |n| Quota::per_minute(nonzero(n));
        Self {
            on,
            auth: Keyed::new(per_minute(120).allow_burst(nonzero(120)), clock),
            lookups: Keyed::new(per_minute(120).allow_burst(nonzero(60)), clock),
            writes: Keyed::new(Quota::per_second(nonzero(600)).allow_burst(nonzero(2000)), clock),
        }
    }

    /// Counts a request to `/auth/*`, where nobody is known yet.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn auth(&self, address: IpAddr) -> Result<(), RateLimited> {
        self.check(&self.auth, &network(address))
    }

    /// Counts a look-up: what tells of other accounts or takes their prekeys.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn lookup(&self, device: &DeviceId) -> Result<(), RateLimited> {
        self.check(&self.lookups, device)
    }

    /// Counts a write: a message or a deletion, over REST or a socket.
    ///
    /// # Errors
    /// [`RateLimited`].
    pub fn write(&self, device: &DeviceId) -> Result<(), RateLimited> {
        self.check(&self.writes, device)
    }

    /// Forgets those whose allowance is whole again. Happens by itself every so many checks; a
    /// timer may call it too.
    pub fn sweep(&self) {
        self.auth.sweep();
        self.lookups.sweep();
        self.writes.sweep();
    }

    fn check<K: Hash + Eq + Clone>(
        &self,
        limiter: &Keyed<K, C>,
        key: &K,
    ) -> Result<(), RateLimited> {
        if self.on { limiter.check(key) } else { Ok(()) }
    }
}

type Governor<K, C> =
    RateLimiter<K, DashMapStateStore<K>, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct Keyed<K: Hash + Eq + Clone, C: Clock> {
    limiter: Governor<K, C>,
    clock: C,
    checks: AtomicU32,
}

impl<K: Hash + Eq + Clone, C: Clock + Clone> Keyed<K, C> {
    fn new(quota: Quota, clock: &C) -> Self {
        let limiter = RateLimiter::new(quota, DashMapStateStore::default(), clock.clone());
        Self { limiter, clock: clock.clone(), checks: AtomicU32::new(0) }
    }

    fn check(&self, key: &K) -> Result<(), RateLimited> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.sweep();
        }
        self.limiter.check_key(key).map_err(|not_until| {
            let wait = not_until.wait_time_from(self.clock.now());
            // Rounded up: coming back a moment early would be refused again.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            RateLimited { retry_after: seconds.max(1) }
        })
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
    use std::time::Duration;

    fn limits() -> (Limits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limits::with_clock(true, &clock), clock)
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    #[test]
    fn a_burst_passes_and_then_two_requests_a_second() {
        let (limits, clock) = limits();
        let alice = IpAddr::from([192, 0, 2, 1]);
        for _ in 0..120 {
            assert_eq!(limits.auth(alice), Ok(()));
        }
        assert_eq!(limits.auth(alice), Err(RateLimited { retry_after: 1 }));
        assert_eq!(limits.auth(IpAddr::from([192, 0, 2, 2])), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(limits.auth(alice), Ok(()));
        assert_eq!(limits.auth(alice), Ok(()));
        assert!(limits.auth(alice).is_err());
    }

    #[test]
    fn devices_have_allowances_of_their_own() {
        let (limits, _clock) = limits();
        let (one, two) = (device("one"), device("two"));
        let passed =
            |go: &dyn Fn() -> Result<(), RateLimited>| (0..9000).filter(|_| go().is_ok()).count();
        assert_eq!(passed(&|| limits.lookup(&one)), 60);
        assert_eq!(passed(&|| limits.write(&one)), 2000);
        assert_eq!(limits.lookup(&two), Ok(()));
        assert_eq!(limits.write(&two), Ok(()));
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
            assert_eq!(limits.auth(IpAddr::from([192, 0, 2, 1])), Ok(()));
        }
        assert_eq!(limits.auth.limiter.len(), 0);
    }

    #[test]
    fn those_who_stay_away_are_forgotten() {
        let (limits, clock) = limits();
        for last in 0..=255 {
            assert_eq!(limits.auth(IpAddr::from([192, 0, 2, last])), Ok(()));
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
