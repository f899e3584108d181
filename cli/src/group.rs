//! Trainers that learn together: which ranks a node has, who leads, and where the others join.

use crate::exit::{Exit, Failure};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use crate::tls::ServerTls;
use crate::{models, roles};
use likeness_coordinator::{LatestTls, Trade};
use likeness_diffusion::BaseModel;
use likeness_proto::{ErrorCode, Refusal, Secret};
use likeness_trainer::collective::{Admission, Certificates, serve};
use likeness_trainer::{Curve, Follower, Group, Placement, Plan, follow};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tracing::{info, warn};

/// Where the leader listens when only its host is named.
const DEFAULT_PORT: u16 = 7432;
/// Between two attempts to find it.
const AGAIN: Duration = Duration::from_secs(1);

/// What a node is in its group.
#[derive(Clone, Debug)]
pub struct Node {
    /// Ranks of each node.
    ranks: usize,
    /// Nodes of the group.
    nodes: usize,
    /// Which of them this is; 0 leads.
    index: usize,
    /// None where there is one node.
    meeting: Option<Meeting>,
    limit: Duration,
    placement: Option<Placement>,
}

/// Where the nodes of a group meet, and how they know each other.
#[derive(Clone, Debug)]
struct Meeting {
    /// The leader's `HOST:PORT`.
    leader: String,
    trust: Trust,
}

#[derive(Clone)]
enum Trust {
    /// By certificates, over TLS.
    Certificates(ServerTls),
    /// By a token, and nothing is encrypted; on other machines than this one as well?
    Token { token: Secret, anywhere: bool },
}

impl Node {
    /// As the settings say.
    ///
    /// # Errors
    /// [`Exit::Setting`] for a group without a leader's address, an index beyond its size, or certificates that cannot be used,
    /// [`Exit::Token`] where a group has neither certificates nor a token.
    pub fn of(settings: &Settings) -> Result<Self, Failure> {
        let Settings { ranks, group_size: nodes, group_index: index, .. } = *settings;
        let refuse = |message: String| Err(Failure::new(Exit::Setting, message));
        if index >= nodes {
            return refuse(format!(
                "the setting group_index is {index}; a group of {nodes} nodes has 0 to {}",
                nodes - 1
            ));
        }
        let leader = settings.group_leader.as_deref().filter(|_| nodes > 1).map(with_port);
        if nodes > 1 && leader.is_none() {
            return refuse(format!("a group of {nodes} nodes needs a leader; set group_leader to its HOST:PORT"));
        }
        let meeting = leader
            .map(|leader| Ok::<_, Failure>(Meeting { trust: Trust::of(settings, &leader)?, leader }))
            .transpose()?;
        Ok(Self {
            ranks,
            nodes,
            index,
            meeting,
            limit: settings.group_deadline(),
            placement: settings.placement.chosen(),
        })
    }

    /// Ranks of this node.
    #[must_use]
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// Ranks of the whole group.
    #[must_use]
    pub fn size(&self) -> usize {
        self.ranks * self.nodes
    }

    /// Whether it follows another node, which has the tasks.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.index > 0
    }

    /// The group that this node leads on `model`, whose steps take what `curve` says; none where it is a single rank.
    ///
    /// # Errors
    /// A device of a rank that is not there, or does not take the model.
    pub fn group(
        &self,
        settings: &Settings,
        model: &Arc<BaseModel>,
        curve: Option<Curve>,
    ) -> Result<Option<Group>, Failure> {
        let others = self.size() - self.ranks;
        if self.size() == 1 {
            return Ok(None);
        }
        let group = Group::new(self.models(settings, model)?, others, self.limit, self.placement);
        Ok(Some(group.with_curve(curve)))
    }

    /// The ranks of this node alone, who split every step; none where it is a single rank.
    ///
    /// # Errors
    /// As [`Node::group`].
    pub fn split(&self, settings: &Settings, model: &Arc<BaseModel>) -> Result<Option<Group>, Failure> {
        if self.ranks == 1 {
            return Ok(None);
        }
        Ok(Some(Group::new(self.models(settings, model)?, 0, self.limit, Some(Placement::Split))))
    }

    /// Lets the ranks of other nodes join `group` until `shutdown`.
    ///
    /// # Errors
    /// [`Exit::Insecure`], [`Exit::PortInUse`] and others where its address cannot be listened on.
    pub async fn lead(&self, group: Option<&Group>, shutdown: CancellationToken) -> Result<(), Failure> {
        let (Some(meeting), Some(group)) = (&self.meeting, group) else {
            shutdown.cancelled().await;
            return Ok(());
        };
        let admission = meeting.trust.admission()?;
        let listener = roles::bind(meeting.address().await?).await?;
        info!(address = meeting.leader, ranks = self.size(), nodes = self.nodes, "leading a group");
        serve(listener, group.assembly(), &admission, shutdown).await.map_err(Failure::unexpected)
    }

    /// Measures what the leader announces until `shutdown`.
    ///
    /// # Errors
    /// What the leader refuses this node for.
    pub async fn follow(
        &self,
        settings: &Settings,
        model: &Arc<BaseModel>,
        plan: &Plan,
        shutdown: CancellationToken,
    ) -> Result<(), Failure> {
        let Some(meeting) = &self.meeting else { return Ok(()) };
        meeting.address().await?;
        let (leader, token) = meeting.way()?;
        let follower = Follower {
            leader,
            token,
            models: self.models(settings, model)?,
            first: self.index * self.ranks,
            size: self.size(),
            limit: self.limit,
            positions: plan.packing.positions,
        };
        info!(leader = meeting.leader, first_rank = follower.first, ranks = self.ranks, "following a group's leader");
        match shutdown.run_until_cancelled(follow(follower)).await {
            None => Ok(()),
            Some(Err(refusal)) => Err(refusal.into()),
        }
    }

    /// Whether the leader may be spoken to as the settings say. Its name is not asked for: one that is not `localhost` is of another machine.
    ///
    /// # Errors
    /// [`Exit::Insecure`] for a leader off this machine.
    pub(crate) fn may_be_reached(&self) -> Result<(), Failure> {
        let Some(Meeting { leader, trust }) = &self.meeting else { return Ok(()) };
        if is_here(leader) || trust.reaches_others() { Ok(()) } else { Err(in_the_clear(leader)) }
    }

    /// Of each own rank. On the CPU all ranks share one; every GPU has its own.
    fn models(&self, settings: &Settings, model: &Arc<BaseModel>) -> Result<Vec<Arc<BaseModel>>, Failure> {
        if model.device.is_cpu() {
            return Ok(vec![Arc::clone(model); self.ranks]);
        }
        let others = (1..self.ranks).map(|rank| models::load_on(settings, &settings.device.open(rank)?).map(Arc::new));
        std::iter::once(Ok(Arc::clone(model))).chain(others).collect()
    }
}

impl Meeting {
    /// What the leader's name stands for. A name may be known later than the node: it is asked for again.
    async fn address(&self) -> Result<SocketAddr, Failure> {
        let leader = &self.leader;
        let address = loop {
            match lookup_host(leader).await.map(|mut found| found.next()) {
                Ok(Some(address)) => break address,
                Ok(None) => warn!(leader, "the group's leader has no address yet, asking again"),
                Err(error) => warn!(leader, %error, "the group's leader is not known yet, asking again"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        if address.ip().is_loopback() || self.trust.reaches_others() { Ok(address) } else { Err(in_the_clear(leader)) }
    }

    /// The way to the leader, and the token that is presented there.
    fn way(&self) -> Result<(watch::Receiver<Endpoint>, Option<Secret>), Failure> {
        match &self.trust {
            Trust::Certificates(tls) => {
                let leader = self.leader.clone();
                Ok((tls.clone().follow_as(move |tls| tls.way(&leader))?, None))
            }
            Trust::Token { token, .. } => {
                let endpoint = Endpoint::from_shared(format!("http://{}", self.leader)).map_err(Failure::unexpected)?;
                Ok((watch::Sender::new(endpoint).subscribe(), Some(token.clone())))
            }
        }
    }
}

impl Trust {
    /// Certificates where there are some, unless plaintext is asked for.
    fn of(settings: &Settings, leader: &str) -> Result<Self, Failure> {
        let anywhere = settings.group_plaintext;
        if let (false, Some(tls)) = (anywhere, ServerTls::of_group(settings)?) {
            return Ok(Self::Certificates(tls));
        }
        let token = match &settings.token {
            Some(token) => token.clone(),
            None => read_token(&StateDir::at(&settings.state).token_file())
                .map_err(|missing| if anywhere || is_here(leader) { missing } else { in_the_clear(leader) })?,
        };
        Ok(Self::Token { token, anywhere })
    }

    fn reaches_others(&self) -> bool {
        matches!(self, Self::Certificates(_) | Self::Token { anywhere: true, .. })
    }

    fn admission(&self) -> Result<Admission, Failure> {
        match self {
            Self::Certificates(tls) => Ok(Admission::Certificates(Arc::new(Trainers(tls.clone().follow()?)))),
            Self::Token { token, .. } => Ok(Admission::Token(token.clone())),
        }
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Certificates(_)) { "Certificates" } else { "Token" })
    }
}

/// Lets in who has a certificate of a trainer.
#[derive(Debug)]
struct Trainers(LatestTls);

impl Certificates for Trainers {
    fn handshake(&self) -> Arc<ServerConfig> {
        self.0.borrow().calls()
    }

    fn admit(&self, chain: &[CertificateDer<'_>]) -> Result<(), Refusal> {
        let tls = self.0.borrow();
        let workers = tls.workers().ok_or_else(|| Refusal::internal("a group without authorities"))?;
        let worker = workers.named(chain, UnixTime::now())?;
        if worker.trade == Trade::Trainer {
            return Ok(());
        }
        let (trade, name) = (worker.trade.as_str(), worker.name);
        let message = format!("the certificate is of {trade}/{name}; a group of trainers takes trainer/NAME alone");
        Err(Refusal::new(ErrorCode::Forbidden, message))
    }
}

/// Whether it is this machine by its name alone, `HOST:PORT`.
fn is_here(leader: &str) -> bool {
    leader.parse::<SocketAddr>().map_or_else(
        |_name| leader.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
        |address| address.ip().is_loopback(),
    )
}

fn in_the_clear(leader: &str) -> Failure {
    Failure::new(
        Exit::Insecure,
        format!(
            "the group's leader {leader} is not on this machine, and without TLS the token and all else would travel in the clear; set \
             tls_client_cert, tls_client_key, tls_client_ca and trust_domain, or, on a network that nobody else hears, group_plaintext = true"
        ),
    )
}

/// `HOST:PORT`, with the usual port where there is none.
fn with_port(leader: &str) -> String {
    let ported = leader.parse::<SocketAddr>().is_ok()
        || leader.rsplit_once(':').is_some_and(|(host, port)| !host.contains(':') && port.parse::<u16>().is_ok());
    match (ported, leader.parse::<IpAddr>()) {
        (true, _) => leader.to_owned(),
        (false, Ok(IpAddr::V6(ip))) => format!("[{ip}]:{DEFAULT_PORT}"),
        (false, _) => format!("{leader}:{DEFAULT_PORT}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Sources;

    fn node(flags: &[(&'static str, &str)]) -> Result<Node, Failure> {
        let token = [("token", "secret")];
        let flags = flags.iter().chain(&token).map(|(name, value)| (*name, (*value).to_owned())).collect();
        Node::of(&Settings::resolve(&Sources { flags, ..Sources::default() }).unwrap().settings)
    }

    #[test]
    fn a_trainer_alone_is_no_group() {
        let alone = node(&[]).unwrap();
        assert_eq!((alone.ranks(), alone.size(), alone.follows()), (1, 1, false));
        let four = node(&[("ranks", "4")]).unwrap();
        assert_eq!((four.ranks(), four.size(), four.follows()), (4, 4, false));
    }

    #[test]
    fn ranks_are_counted_over_the_nodes() {
        let flags = [("ranks", "2"), ("group_leader", "127.0.0.1"), ("group_size", "3"), ("group_index", "1")];
        let second = node(&flags).unwrap();
        assert_eq!((second.ranks(), second.size(), second.follows()), (2, 6, true));
        assert_eq!(second.meeting.unwrap().leader, "127.0.0.1:7432");
    }

    #[test]
    fn a_group_without_a_leader_or_with_an_index_beyond_it_is_refused() {
        let failure = node(&[("group_size", "2")]).unwrap_err();
        assert!(failure.exit == Exit::Setting && failure.message.contains("group_leader"), "{failure}");
        let failure = node(&[("group_size", "2"), ("group_index", "2")]).unwrap_err();
        assert!(failure.message.contains("group_index is 2; a group of 2 nodes has 0 to 1"), "{failure}");
    }

    #[test]
    fn a_leader_has_the_usual_port_unless_it_is_named() {
        let cases = [
            ("trainer-0.group", "trainer-0.group:7432"),
            ("trainer-0.group:9", "trainer-0.group:9"),
            ("192.0.2.1", "192.0.2.1:7432"),
            ("::1", "[::1]:7432"),
            ("[::1]:9", "[::1]:9"),
        ];
        for (named, meant) in cases {
            assert_eq!(with_port(named), meant);
        }
    }

    #[tokio::test]
    async fn a_leader_off_this_machine_is_refused_unless_plaintext_is_allowed() {
        let flags = [("group_size", "2"), ("group_leader", "192.0.2.1")];
        let address = async |node: Node| node.meeting.unwrap().address().await;
        let refused = address(node(&flags).unwrap()).await.unwrap_err();
        assert!(refused.exit == Exit::Insecure && refused.message.contains("group_plaintext"), "{refused}");
        address(node(&[&flags[..], &[("group_plaintext", "true")]].concat()).unwrap()).await.unwrap();
    }
}
