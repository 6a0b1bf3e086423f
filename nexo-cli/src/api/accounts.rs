//! Changing accounts: events and link requests. An event proves itself, and a request is for a
//! device that has no account yet, so most of it needs no token.

use nexo_schema::http::{EventPlaced, Link, LinkAcceptance, LinkAnswer, LinkRequest, SignedEvent};
use reqwest::Method;

use super::member::{encoded, post};
use super::{ApiError, Call, MAX_ANSWER, Member, Relay, json};

impl Relay {
    /// Brings an event into the log.
    ///
    /// # Errors
    /// [`ApiError`]; `chain_moved` if another event was faster.
    pub async fn place_event(&self, event: &SignedEvent) -> Result<EventPlaced, ApiError> {
        let body = encoded(event)?;
        let call = post("/account/events", &body);
        json(&call, &self.asked(&call, MAX_ANSWER).await?)
    }

    /// Asks for a place in an account, as a device that has none.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn ask_for_link(&self, request: &LinkRequest) -> Result<Link, ApiError> {
        let body = encoded(request)?;
        let call = post("/links", &body);
        json(&call, &self.asked(&call, MAX_ANSWER).await?)
    }

    /// A request, with the offer if there is one. `id` is hex.
    ///
    /// # Errors
    /// [`ApiError`]; `not_found` when it is over.
    pub async fn link(&self, id: &str) -> Result<Link, ApiError> {
        let path = format!("/links/{id}");
        let call = Call { method: Method::GET, path: &path, query: "", body: None };
        json(&call, &self.asked(&call, MAX_ANSWER).await?)
    }

    /// Accepts the offer of a request.
    ///
    /// # Errors
    /// [`ApiError`]; `chain_moved` if the account has changed since.
    pub async fn accept_link(
        &self,
        id: &str,
        acceptance: &LinkAcceptance,
    ) -> Result<EventPlaced, ApiError> {
        let (path, body) = (format!("/links/{id}/accept"), encoded(acceptance)?);
        let call = post(&path, &body);
        json(&call, &self.asked(&call, MAX_ANSWER).await?)
    }
}

impl Member<'_> {
    /// Offers a requesting device a place in this one's account.
    ///
    /// # Errors
    /// [`ApiError`].
    pub async fn offer(&self, id: &str, answer: &LinkAnswer) -> Result<Link, ApiError> {
        self.change(&format!("/links/{id}/offer"), &encoded(answer)?).await
    }
}
