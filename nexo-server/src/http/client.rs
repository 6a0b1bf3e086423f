//! Who a request comes from, where reverse proxies stand in between.
//!
//! A proxy appends the address it was reached from to `X-Forwarded-For`, and a client may have
//! written anything before that. So the list is read from its end: each address is believed that
//! was written by a proxy of ours, and the first that is not one of ours is the client's.
//!
//! ```text
//! X-Forwarded-For: <whatever the client said>, 198.51.100.7, 10.0.0.2      then peer 10.0.0.1
//!                                              the client     ours                   ours
//! ```
//!
//! Without a list of proxies the peer is the client, whatever headers say.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use rocket::Request;

/// Addresses in `X-Forwarded-For` that are looked at, from its end: more proxies than anybody has
/// in a row.
const HOPS: usize = 16;

/// A network in CIDR notation (RFC 4632 3.1, RFC 4291 2.3), or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// The text is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a network like 10.0.0.0/8 or an address, without bits behind the prefix")]
pub struct NoNetwork;

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| NoNetwork)?,
        };
        // Bits behind the prefix are a mistake that would trust another network than was meant.
        (network.trunc() == network).then_some(Self(network)).ok_or(NoNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The client's address; `None` only for a request that did not come over a socket.
#[must_use]
pub fn address_of(request: &Request<'_>, proxies: &[Network]) -> Option<IpAddr> {
    if proxies.is_empty() {
        // The peer, or what `--client-ip-header` names.
        return request.client_ip();
    }
    let peer = request.remote()?.ip();
    let said: Vec<&str> = request.headers().get("X-Forwarded-For").collect();
    Some(behind(peer, &said, proxies))
}

/// The client behind `peer`, by the lines of the header, which are one list (RFC 9110 5.3).
fn behind(peer: IpAddr, said: &[&str], proxies: &[Network]) -> IpAddr {
    let ours = |address: IpAddr| proxies.iter().any(|Network(network)| network.contains(&address));
    let mut client = peer.to_canonical();
    let hops = said.iter().rev().flat_map(|line| line.rsplit(','));
    for hop in hops.take(HOPS) {
        if !ours(client) {
            break;
        }
        // What is no address says nothing: then the proxy that passed it on is all we know.
        let Some(address) = address(hop.trim()) else { break };
        client = address.to_canonical();
    }
    client
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or without.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address);
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(bare) = bare {
        return bare.parse().ok().filter(IpAddr::is_ipv6);
    }
    text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn nets(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(peer: &str, said: &[&str]) -> IpAddr {
        let proxies = nets(&["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48"]);
        behind(ip(peer), said, &proxies)
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.128/25", "192.0.2.255", "192.0.2.127"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::", "0.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::"),
        ] {
            let network: Network = net.parse().unwrap();
            let Network(addresses) = network;
            assert!(addresses.contains(&ip(inside)) && !addresses.contains(&ip(outside)), "{net}");
            assert_eq!(network.to_string().parse(), Ok(network));
        }
        for bad in [
            "",
            "/",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.1/8",
            "10.0.0.0/+8",
            "10.0.0.0/8/8",
            "2001:db8::/129",
            "2001:db8::1/32",
            "10.0.0/8",
            "localhost",
            "*",
            "10.0.0.0/-1",
        ] {
            assert_eq!(bad.parse::<Network>(), Err(NoNetwork), "{bad}");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_not_a_proxys() {
        for (said, expected) in [
            (&["198.51.100.7"][..], "198.51.100.7"),
            (&["1.2.3.4, 198.51.100.7"], "198.51.100.7"),
            (&["1.2.3.4, 198.51.100.7, 10.0.0.2"], "198.51.100.7"),
            (&["1.2.3.4", "198.51.100.7 ,10.0.0.2"], "198.51.100.7"),
            (&["198.51.100.7:4711"], "198.51.100.7"),
            (&["2001:db8:2::7"], "2001:db8:2::7"),
            (&["[2001:db8:2::7]"], "2001:db8:2::7"),
            (&["[2001:db8:2::7]:4711, 2001:db8:1::1"], "2001:db8:2::7"),
            (&["::ffff:198.51.100.7, ::ffff:10.1.1.1"], "198.51.100.7"),
            // All of them proxies: the first is where it began.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            (&[], "127.0.0.1"),
        ] {
            assert_eq!(client("127.0.0.1", said), ip(expected), "{said:?}");
            assert_eq!(client("::ffff:127.0.0.1", said), ip(expected), "{said:?}");
        }
    }

    #[test]
    fn who_is_no_proxy_says_nothing_of_others() {
        for said in [&["198.51.100.7"][..], &["10.0.0.2"], &["127.0.0.1", "10.0.0.1"]] {
            assert_eq!(client("192.0.2.9", said), ip("192.0.2.9"), "{said:?}");
            assert_eq!(client("2001:db8:2::1", said), ip("2001:db8:2::1"), "{said:?}");
        }
    }

    #[test]
    fn garbage_leaves_the_proxy_that_passed_it_on() {
        for said in ["", "unknown", "_hidden", "198.51.100", "[198.51.100.7]", "1.2.3.4, x", ","] {
            assert_eq!(client("127.0.0.1", &[said]), ip("127.0.0.1"), "{said:?}");
        }
        assert_eq!(client("127.0.0.1", &["1.2.3.4, x, 10.0.0.2"]), ip("10.0.0.2"));
    }

    #[test]
    fn a_long_list_is_not_followed_for_ever() {
        let long = format!("198.51.100.7{}", ", 10.0.0.2".repeat(10_000));
        assert_eq!(client("127.0.0.1", &[&long]), ip("10.0.0.2"));
    }

    proptest! {
        /// Whatever stands before what a proxy wrote changes nothing.
        #[test]
        fn no_client_chooses_its_address(said in "[ -~]{0,80}", port in any::<u16>()) {
            for own in ["198.51.100.7".to_owned(), format!("198.51.100.7:{port}")] {
                let line = format!("{said}, {own}");
                prop_assert_eq!(client("127.0.0.1", &[&line]), ip("198.51.100.7"));
                prop_assert_eq!(client("127.0.0.1", &[&said, &own]), ip("198.51.100.7"));
            }
            prop_assert_eq!(client("192.0.2.9", &[&said]), ip("192.0.2.9"));
        }
    }
}
