//! What every handler works with: the parts of a running relay, wired once.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use nexo_schema::error::ErrorCode;
use nexo_schema::ids::{ConvId, DeviceId, Origin};
use rocket::tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::LogReceipt;
use crate::auth::dpop::DpopChecker;
use crate::auth::seen::SeenTokens;
use crate::auth::token::{AccessTokens, ServerSecret};
use crate::clock::Clock;
use crate::config::Config;
use crate::devices::Devices;
use crate::error::ApiError;
use crate::http::limits::Limits;
use crate::http::metrics::Metrics;
use crate::log::{Denied, Head, Log, SubmitError, Ticket};
use crate::relay::{Cursors, Rooms};
use crate::shutdown::Stopping;
use crate::store::{Device, Item, Placed, Refusal, SqlLedger, Store, StoreError};
use crate::store::{device_by_id, is_participant, newest_head};

/// Seconds after which a client whose request found the relay busy may come back.
const RETRY_AFTER: u64 = 1;

/// How long a request waits for a head that another server made.
const CATCH_UP: Duration = Duration::from_secs(2);

/// An item on its way into the log.
pub type Waiting = Ticket<Placed, Refusal>;

/// The relay's parts. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// See [`App`].
pub struct Parts {
    /// How the operator set the relay up.
    pub config: Config,
    /// The relay's one name.
    pub origin: Origin,
    /// Time, for everything that has to do with clients.
    pub clock: Clock,
    /// The database.
    pub store: Store,
    /// The log.
    pub log: Log<SqlLedger>,
    /// The bell.
    pub rooms: Rooms,
    /// What sockets acknowledged, on its way to the database.
    pub cursors: Cursors,
    /// Devices lately looked up.
    pub devices: Devices,
    /// Access tokens.
    pub tokens: AccessTokens,
    /// Access tokens found valid.
    pub seen: SeenTokens,
    /// What refresh tokens are derived with.
    pub secret: ServerSecret,
    /// DPoP proofs.
    pub dpop: DpopChecker,
    /// Rates.
    pub limits: Limits,
    /// The tasks of open sockets.
    pub sockets: TaskTracker,
    /// Whether the relay is about to end.
    pub stopping: Stopping,
    /// Counts for the operator.
    pub metrics: Metrics,
}

impl App {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Brings an item into the log and waits for its receipt.
    ///
    /// # Errors
    /// [`ApiError`]: the refusal in the wire's words, or unavailable.
    pub async fn submit(&self, item: Item) -> Result<LogReceipt, ApiError> {
        Self::settled(self.enqueue(item)?).await
    }

    /// Hands an item to the log; from here on it may enter it, whoever still waits.
    ///
    /// # Errors
    /// [`ApiError`]: the queue is full or closed, and nothing happened.
    pub fn enqueue(&self, item: Item) -> Result<Waiting, ApiError> {
        self.log.submit(item).map_err(|e| match e {
            SubmitError::Full | SubmitError::Closed => unavailable(e.to_string()),
        })
    }

    /// Waits for what became of an item.
    ///
    /// # Errors
    /// As [`App::submit`].
    pub async fn settled(waiting: Waiting) -> Result<LogReceipt, ApiError> {
        waiting.receipt().await.map_err(|denied| match denied {
            Denied::Refused(refusal) => refusal.into(),
            Denied::NotCommitted | Denied::OutcomeUnknown => unavailable(denied.to_string()),
        })
    }

    /// The device of this id, revoked or not, as it is or was within
    /// [`MAX_AGE`](crate::devices::MAX_AGE).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn device(&self, id: &DeviceId) -> Result<Option<Arc<Device>>, StoreError> {
        if let Some(known) = self.devices.lately(id) {
            return Ok(Some(known));
        }
        let (lookup, wanted) = (self.devices.look_up(), id.clone());
        let found = self.store.read(move |conn| device_by_id(conn, &wanted)).await?;
        Ok(found.map(|device| self.devices.keep(lookup, device)))
    }

    /// The newest head of the log, whichever server made it: no older than one that any server
    /// on the database told before this was asked. Without the database it is our own newest:
    /// then nobody makes another.
    pub async fn newest_head(&self) -> Arc<Head> {
        let newest = match self.store.is_shared() {
            true => self.store.read(newest_head).await.ok().flatten(),
            false => None,
        };
        let size = newest.map_or(0, |head| head.size);
        if self.log.head().size < size {
            self.log.look();
            let mut heads = self.log.heads();
            // One that never comes is a log that has stopped; its last head is still true.
            let _ = timeout(CATCH_UP, heads.wait_for(|head| head.size >= size)).await;
        }
        self.log.head()
    }

    /// Participants only, and of their devices those that are not limited to other conversations.
    ///
    /// # Errors
    /// [`ErrorCode::Forbidden`] for anyone else, and where there is no such conversation.
    pub async fn participant(&self, conv: ConvId, device: &Device) -> Result<(), ApiError> {
        let account = device.account;
        if device.reaches(&conv)
            && self.store.read(move |conn| is_participant(conn, &conv, &account)).await?
        {
            return Ok(());
        }
        Err(ApiError::new(ErrorCode::Forbidden, "not a participant of the conversation"))
    }

    /// Random bytes.
    ///
    /// # Errors
    /// [`ApiError`] if the system has none.
    pub fn random<const N: usize>(&self) -> Result<[u8; N], ApiError> {
        let mut bytes = [0; N];
        getrandom::fill(&mut bytes)?;
        Ok(bytes)
    }
}

impl Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::ChallengeGone => ErrorCode::ChallengeInvalid,
            Refusal::ChainMoved => ErrorCode::ChainMoved,
            Refusal::HandleTaken => ErrorCode::HandleTaken,
            Refusal::DeviceTaken => ErrorCode::DeviceTaken,
            Refusal::InviteSpent => ErrorCode::RegistrationClosed,
            Refusal::DeviceBarred | Refusal::NotParticipant => ErrorCode::Forbidden,
            Refusal::Conflict => ErrorCode::IdempotencyConflict,
            Refusal::CounterUsed => ErrorCode::StateRollback,
            Refusal::CounterForm | Refusal::WrongTarget => ErrorCode::BadRequest,
            Refusal::DevicesChanged => ErrorCode::DeviceListStale,
            Refusal::NoTarget => ErrorCode::NotFound,
            Refusal::MessagesUsedUp | Refusal::BytesUsedUp => ErrorCode::QuotaExceeded,
        };
        Self::new(code, refusal.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        if error.may_pass() {
            // The operator has been told by `store/outage.rs`, once.
            return unavailable("the database cannot be used at the moment".to_owned());
        }
        Self::internal(error)
    }
}

impl From<diesel::result::Error> for ApiError {
    fn from(error: diesel::result::Error) -> Self {
        StoreError::from(error).into()
    }
}

fn unavailable(detail: String) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, detail).retry_after(RETRY_AFTER)
}
