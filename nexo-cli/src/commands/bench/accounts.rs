//! The two accounts of a run. Their keys are in memory alone and end with it.

use nexo_schema::bytes::to_hex;
use nexo_schema::ids::Handle;

use crate::api::Relay;
use crate::clock;
use crate::commands::register::{enter, new_identity, stateless_capabilities};
use crate::e2ee::Capabilities;
use crate::e2ee::keys::RecoveryPublic;
use crate::error::CliError;
use crate::identity::ServerPin;
use crate::profile::{Profile, Session};
use crate::{random, upkeep};

/// An account that nobody will use again.
pub(super) struct Guest {
    profile: Profile,
}

impl Guest {
    /// One that writes: stateless, so that its messages need no state of its own.
    pub(super) async fn writer(
        relay: &Relay,
        pin: &ServerPin,
        invite: Option<&str>,
    ) -> Result<Self, CliError> {
        Self::enter(relay, pin, invite, stateless_capabilities()).await
    }

    /// One that can be written to.
    pub(super) async fn reader(
        relay: &Relay,
        pin: &ServerPin,
        invite: Option<&str>,
    ) -> Result<Self, CliError> {
        let guest = Self::enter(relay, pin, invite, Capabilities::FIRST).await?;
        upkeep::publish(&guest.session(relay), clock::seconds()).await?;
        Ok(guest)
    }

    async fn enter(
        relay: &Relay,
        pin: &ServerPin,
        invite: Option<&str>,
        capabilities: Capabilities,
    ) -> Result<Self, CliError> {
        let handle = format!("bench-{}", to_hex(&random::array::<6>()?));
        let handle = Handle::parse(&handle).map_err(|e| CliError::Usage(e.to_string()))?;
        let recovery = RecoveryPublic::of_seed(&*random::secret::<32>()?);
        let identity = new_identity(&pin.origin, &handle, capabilities, &recovery)?;
        let profile = Profile::in_memory(identity, pin.clone()).await?;
        enter(&profile.session(relay, invite)).await?;
        Ok(Self { profile })
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.profile.identity.handle
    }

    /// The account at the relay.
    pub(super) fn session<'a>(&'a self, relay: &'a Relay) -> Session<'a> {
        self.profile.session(relay, None)
    }
}
