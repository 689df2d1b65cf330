//! The names of nodes become addresses, again and again: a node's address may change, and its name may not be known before the
//! node is there.
//!
//! What must hold: the node itself is never held up by a name server; what was resolved once stays until something else is.

use buckets_engine::map::{NodeMap, NodeState};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks at the names of nodes that do not answer.
const AGAIN: Duration = Duration::from_secs(2);
/// Nodes that answer are looked at every so many looks.
const LOOKS_OF_THE_WELL: u32 = 30;

/// Resolves the names of the other nodes on a thread of its own, for as long as the process runs.
pub fn follow(map: Arc<NodeMap>) -> std::io::Result<()> {
    let resolver = std::thread::Builder::new().name("resolve".to_owned());
    resolver.spawn(move || {
        for look in 0u32.. {
            for index in map.other_nodes() {
                let node = map.node(index);
                if node.state() != NodeState::Up || look.is_multiple_of(LOOKS_OF_THE_WELL) {
                    resolve(&node.name, node.address(), |address| node.set_address(address));
                }
            }
            std::thread::sleep(AGAIN);
        }
    })?;
    Ok(())
}

fn resolve(name: &str, before: Option<SocketAddr>, set: impl Fn(SocketAddr)) {
    match name.to_socket_addrs() {
        Ok(addresses) => {
            let addresses: Vec<SocketAddr> = addresses.collect();
            // Of several, the one in use stays.
            if before.is_none_or(|before| !addresses.contains(&before))
                && let Some(address) = addresses.first()
            {
                tracing::info!(node = name, %address, "a node's address");
                set(*address);
            }
        }
        Err(error) => tracing::debug!(node = name, %error, "a node's name is not known"),
    }
}

/// Where this node listens for the others: the address of its own name, where that is one of this machine.
pub fn own_address(name: &str, port: u16) -> SocketAddr {
    let is_here = |address: &SocketAddr| std::net::UdpSocket::bind((address.ip(), 0)).is_ok();
    let found = name.to_socket_addrs().ok().and_then(|mut addresses| addresses.find(is_here));
    // Behind a translated address, or with a name that is not known yet: wherever others come from.
    found.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_address_in_use_stays_while_the_name_has_it() {
        let set = Cell::new(None);
        resolve("127.0.0.1:9100", None, |address| set.set(Some(address)));
        let address = set.take();
        assert_eq!(address, Some("127.0.0.1:9100".parse().unwrap()));
        resolve("127.0.0.1:9100", address, |address| set.set(Some(address)));
        assert_eq!(set.take(), None);
        resolve("127.0.0.1:9100", Some("127.0.0.2:9100".parse().unwrap()), |address| set.set(Some(address)));
        assert_eq!(set.take(), address);
        resolve("no-such-host.invalid:9100", address, |address| set.set(Some(address)));
        assert_eq!(set.take(), None);
    }

    #[test]
    fn a_node_listens_on_its_own_address_where_it_has_one() {
        assert_eq!(own_address("127.0.0.1:9100", 9100), "127.0.0.1:9100".parse().unwrap());
        assert_eq!(own_address("192.0.2.1:9100", 9100), "0.0.0.0:9100".parse().unwrap());
    }
}
