//! Trainers that learn together: which ranks a node has, who leads, and where the others join.

use crate::exit::{Exit, Failure};
use crate::settings::{Settings, read_token};
use crate::state_dir::StateDir;
use crate::{models, roles};
use likeness_diffusion::BaseModel;
use likeness_proto::Secret;
use likeness_trainer::collective::serve;
use likeness_trainer::{Curve, Follower, Group, Placement, Plan, follow};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::lookup_host;
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
    /// `HOST:PORT`; none where there is one node.
    leader: Option<String>,
    /// Whether other machines may take part, though nothing is encrypted.
    plaintext: bool,
    limit: Duration,
    placement: Option<Placement>,
    token: Option<Secret>,
}

impl Node {
    /// As the settings say.
    ///
    /// # Errors
    /// [`Exit::Setting`] for a group without a leader's address or an index beyond its size, [`Exit::Insecure`] for a leader off this
    /// machine, [`Exit::Token`] where a group has none.
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
        let token = match (&leader, &settings.token) {
            (None, _) => None,
            (Some(_), Some(token)) => Some(token.clone()),
            (Some(_), None) => Some(read_token(&StateDir::at(&settings.state).token_file())?),
        };
        let (limit, placement, plaintext) =
            (settings.group_deadline(), settings.placement.chosen(), settings.group_plaintext);
        Ok(Self { ranks, nodes, index, leader, plaintext, limit, placement, token })
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
        let (Some(leader), Some(token), Some(group)) = (&self.leader, &self.token, group) else {
            shutdown.cancelled().await;
            return Ok(());
        };
        let listener = roles::bind(self.address(leader).await?).await?;
        info!(address = leader, ranks = self.size(), nodes = self.nodes, "leading a group");
        serve(listener, group.assembly(), token, shutdown).await.map_err(Failure::unexpected)
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
        let (Some(leader), Some(token)) = (&self.leader, &self.token) else { return Ok(()) };
        self.address(leader).await?;
        let follower = Follower {
            leader: Endpoint::from_shared(format!("http://{leader}")).map_err(Failure::unexpected)?,
            token: token.clone(),
            models: self.models(settings, model)?,
            first: self.index * self.ranks,
            size: self.size(),
            limit: self.limit,
            positions: plan.packing.positions,
        };
        info!(leader, first_rank = follower.first, ranks = self.ranks, "following a group's leader");
        match shutdown.run_until_cancelled(follow(follower)).await {
            None => Ok(()),
            Some(Err(refusal)) => Err(refusal.into()),
        }
    }

    /// What the leader's name stands for. A name may be known later than the node: it is asked for again.
    async fn address(&self, leader: &str) -> Result<SocketAddr, Failure> {
        let address = loop {
            match lookup_host(leader).await.map(|mut found| found.next()) {
                Ok(Some(address)) => break address,
                Ok(None) => warn!(leader, "the group's leader has no address yet, asking again"),
                Err(error) => warn!(leader, %error, "the group's leader is not known yet, asking again"),
            }
            tokio::time::sleep(AGAIN).await;
        };
        if address.ip().is_loopback() || self.plaintext { Ok(address) } else { Err(in_the_clear(leader)) }
    }

    /// The same without asking for the name's address: one that is not `localhost` is of another machine.
    ///
    /// # Errors
    /// [`Exit::Insecure`] for a leader off this machine.
    pub(crate) fn may_be_reached(&self) -> Result<(), Failure> {
        let Some(leader) = self.leader.as_deref().filter(|_| !self.plaintext) else { return Ok(()) };
        let here = leader.parse::<SocketAddr>().map_or_else(
            |_name| leader.rsplit_once(':').is_some_and(|(host, _)| host == "localhost"),
            |address| address.ip().is_loopback(),
        );
        if here { Ok(()) } else { Err(in_the_clear(leader)) }
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

fn in_the_clear(leader: &str) -> Failure {
    Failure::new(
        Exit::Insecure,
        format!(
            "the group's leader {leader} is not on this machine, and without TLS the token and all else would travel in the clear; on a \
             network that nobody else hears, set group_plaintext = true"
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
        assert_eq!(second.leader.as_deref(), Some("127.0.0.1:7432"));
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
        let refused = node(&flags).unwrap().address("192.0.2.1:7432").await.unwrap_err();
        assert!(refused.exit == Exit::Insecure && refused.message.contains("group_plaintext"), "{refused}");
        let allowed = node(&[&flags[..], &[("group_plaintext", "true")]].concat()).unwrap();
        allowed.address("192.0.2.1:7432").await.unwrap();
    }
}
