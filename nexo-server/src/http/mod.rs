//! The REST API: every route on one screen.
//!
//! A handler parses, authorises, calls and maps; it cannot build an index, a checkpoint or a
//! row. What refuses a request answers problem+json, Rocket's own refusals included.

pub mod allowance;
pub mod client;
pub mod guard;
pub mod headers;
pub mod limits;
pub mod metrics;
pub(crate) mod page;
pub mod present;
pub mod request_id;
pub mod submission;

mod accounts;
mod body;
mod caching;
mod chain;
mod conversations;
mod events;
mod health;
mod links;
mod log;
mod messages;
mod openapi;
mod prekeys;
mod proof;
pub(crate) mod query;
mod retries;
mod tiles;
mod unread;

use rocket::{Route, routes};

/// Every route, the socket's included.
#[must_use]
pub fn all() -> Vec<Route> {
    let routes = routes![
        // The seed's
        accounts::register,
        accounts::verify,
        conversations::my_x25519,
        conversations::open,
        messages::list,
        messages::send,
        messages::delete,
        health::health,
        health::live,
        health::ready,
        crate::relay::connect,
        // Native clients'
        accounts::refresh,
        messages::everything,
        prekeys::upload,
        prekeys::list,
        prekeys::bundle,
        prekeys::bundle_by_id,
        prekeys::claim,
        retries::ask,
        retries::answer,
        chain::submit,
        chain::of_handle,
        chain::of_id,
        links::ask,
        links::find,
        links::offer,
        links::accept,
        // Everybody's
        openapi::document,
        log::checkpoint,
        log::keys,
        log::vkey,
        tiles::tiles,
        tiles::entries,
        log::head,
        log::head_of_size,
        log::inclusion,
        log::consistency,
        proof::of_index,
        // Auditors'
        events::events,
        // Whoever may know where something is
        proof::of_message,
        proof::message_inclusion,
        proof::of_account,
    ];
    routes.into_iter().map(unread::reading).collect()
}
