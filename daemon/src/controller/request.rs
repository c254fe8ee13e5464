//! What others ask of the controller.

use punch_api::{
    AddForward, AddPeer, AddServer, AnswerLine, ApiError, Changed, ErrorCode, ForwardKey,
    ForwardView, IdView, InvitationView, Invite, Join, KeyView, NetcheckView, PairingView,
    PasteView, PeerName, PeerView, PingView, Rename, ServerView, Status, WhyView,
};
use tokio::sync::{mpsc, oneshot};

/// Where the answer to a request goes.
pub(crate) type Answer<T> = oneshot::Sender<Result<T, ApiError>>;

/// What a peer may be allowed beside forwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// Every port of this machine.
    Host,
    /// To meet other peers here, between which this machine relays.
    Relay,
}

/// A call of the control API, or a question of the watchdog or of the metrics.
pub(crate) enum Request {
    Id(Answer<IdView>),
    Key(Answer<KeyView>),
    Status(Answer<Status>),
    Peers(Answer<Vec<PeerView>>),
    Peer(PeerName, Answer<PeerView>),
    Servers(Answer<Vec<ServerView>>),
    Forwards(Answer<Vec<ForwardView>>),
    AddPeer(AddPeer, Answer<Changed<PeerView>>),
    RemovePeer(PeerName, Answer<Changed<()>>),
    RenamePeer(PeerName, Rename, Answer<Changed<PeerView>>),
    /// Whether the peer is wanted, and whether it is never to be relayed, if something is said of that.
    SetUp(PeerName, bool, Option<bool>, Answer<Changed<PeerView>>),
    /// Whether the peer may do this.
    SetGrant(PeerName, Grant, bool, Answer<Changed<PeerView>>),
    Ping(PeerName, Answer<PingView>),
    AddForward(AddForward, Answer<Changed<ForwardView>>),
    RemoveForward(ForwardKey, Answer<Changed<()>>),
    AddServer(AddServer, Answer<Changed<ServerView>>),
    RemoveServer(AddServer, Answer<Changed<()>>),
    Netcheck(Answer<Vec<NetcheckView>>),
    Why(PeerName, Answer<WhyView>),
    /// A line that a person carries to this peer.
    Offer(PeerName, Answer<PasteView>),
    /// A line that a person has carried here.
    Answer(AnswerLine, Answer<PasteView>),
    Pairing(PairingAsk),
}

/// What is asked of invitations; none of it changes the configuration by itself.
pub(crate) enum PairingAsk {
    Invite(Invite, Answer<InvitationView>),
    Join(Join, Answer<PairingView>),
    List(Answer<Vec<PairingView>>),
    Look(u32, Answer<PairingView>),
    End(u32, Answer<PairingView>),
}

/// Asks the controller, and waits for its answer.
pub(crate) async fn call<T>(
    controller: &mpsc::Sender<Request>,
    request: impl FnOnce(Answer<T>) -> Request,
) -> Result<T, ApiError> {
    let (sender, receiver) = oneshot::channel();
    let stopping = || ApiError::new(ErrorCode::Internal, "punchd is stopping");
    controller
        .send(request(sender))
        .await
        .map_err(|_| stopping())?;
    receiver.await.map_err(|_| stopping())?
}
