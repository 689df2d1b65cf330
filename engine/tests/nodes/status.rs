//! What a node shows of the others.

use crate::model::nodes::Nodes;
use crate::{run, three_nodes};
use buckets_engine::map::{DiskState, NodeState};
use buckets_engine::object::status::{DiskStatus, NodeStatus, PeerStatus};
use buckets_env::Env;
use buckets_env::sim::sweep;
use buckets_peer::{Identity, Message, NodeId, Peer, PeerAddress, PeerOptions, Secret, Target, VERSIONS};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// By then every node knows how the others are.
const NOTICED: Duration = Duration::from_secs(5);

async fn status(env: &Env, nodes: &Nodes, node: usize) -> NodeStatus {
    nodes.store(env, node, 1).await.status_of_all().await.unwrap()
}

fn disks_of(status: &NodeStatus, node: u16) -> Vec<&DiskStatus> {
    status.sets.iter().flat_map(|set| &set.disks).filter(|disk| disk.node == node).collect()
}

fn is_well(status: &NodeStatus, node: u16) -> bool {
    let PeerStatus { state, cores, disks_in_service, disks, told, .. } = &status.nodes[usize::from(node)];
    let is_whole = |disk: &&DiskStatus| {
        disk.state == DiskState::InService && disk.space.is_some() && !disk.counters.is_empty()
    };
    *state == NodeState::Up
        && (*cores, *disks_in_service, *disks) == (Some(2), 2, 2)
        && told.is_some()
        && disks_of(status, node).iter().all(is_whole)
}

#[test]
fn a_node_that_is_gone_is_shown_with_its_disks_until_it_is_back() {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            env.sleep(NOTICED).await;
            let shown = status(&env, nodes, 0).await;
            assert!((0..3).all(|node| is_well(&shown, node)), "{shown:?}");
            for node in &shown.nodes {
                let is_reached = node.road.as_ref().is_some_and(|road| road.round_trip.is_some());
                assert_eq!(is_reached, !node.is_own, "{shown:?}");
            }
            nodes.crash(2);
            env.sleep(NOTICED).await;
            let shown = status(&env, nodes, 0).await;
            assert!((0..2).all(|node| is_well(&shown, node)), "{shown:?}");
            let gone = &shown.nodes[2];
            assert_eq!((gone.state, gone.disks_in_service), (NodeState::Unreachable, 0));
            assert!(gone.told.is_none() && gone.road.as_ref().is_some_and(|road| road.lost > 0));
            for disk in disks_of(&shown, 2) {
                assert_eq!((disk.state, disk.space), (DiskState::Absent, None));
                assert!(!disk.reason.is_empty() && disk.counters.is_empty());
            }
            nodes.start(2);
            nodes.store(&env, 2, 0).await;
            env.sleep(NOTICED).await;
            let shown = status(&env, nodes, 0).await;
            assert!((0..3).all(|node| is_well(&shown, node)), "{shown:?}");
            // By itself a node knows nothing of what is on the others' disks.
            let alone = nodes.store(&env, 0, 0).await.status().await.unwrap();
            assert!(alone.nodes.iter().all(|node| node.told.is_some() == node.is_own));
            assert!(disks_of(&alone, 1).iter().all(|disk| disk.space.is_none()));
        });
    });
}

#[test]
fn who_does_not_hold_the_secret_is_counted() {
    sweep(0..6, |seed| {
        run(seed, three_nodes(), async |_, nodes, env| {
            let deployment = nodes.store(&env, 0, 0).await.status().await.unwrap().deployment;
            let identity = Identity {
                deployment,
                node: NodeId([9; 16]),
                cores: 1,
                secret: Secret::new(&[8; 32]).unwrap(),
                versions: VERSIONS,
            };
            let address = SocketAddr::new(nodes.nodes[1].ip(), crate::model::nodes::PORT);
            let host = address.ip().to_string();
            let to = PeerAddress { address, host, target: Target { node: None, core: 1 } };
            let peer = Peer::new(&env, 0, Arc::new(identity), to, PeerOptions::default());
            let asked = Message::new(Bytes::from_static(b"open"));
            assert!(peer.request(asked, Duration::from_secs(1)).await.is_err());
            let shown = status(&env, nodes, 0).await;
            let refused = |node: usize| {
                let told = shown.nodes[node].told.as_ref().unwrap();
                told.refused.values().into_iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>()
            };
            let at_the_door = refused(1);
            assert!(matches!(&at_the_door[..], [("wrong_secret", 1..)]), "{at_the_door:?}");
            assert_eq!(refused(2), []);
        });
    });
}
