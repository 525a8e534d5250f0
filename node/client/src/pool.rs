//! Several connections to a cluster, and which of them a key's request should take: one that leads to the node that
//! leads the key's range. Any node serves every request, so a stale route costs one hop between nodes and nothing else.

use crate::client::{Client, ClientOptions};
use crate::error::ConnectError;
use crate::limits::{ROUTES_AGE_MAX, ROUTES_TIMEOUT};
use crate::protocol::Routes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// Connections spread over the endpoints. Cheap to clone; must be used within a tokio runtime.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    connections: Vec<Client>,
    table: RwLock<Table>,
    /// Somebody is asking for newer routes.
    asking: AtomicBool,
}

/// What is known of ranges and leaders.
struct Table {
    learned: Instant,
    routes: Routes,
    /// Connections by the node they lead to.
    at: BTreeMap<u64, Vec<usize>>,
}

impl Pool {
    /// Opens `count` connections, each to the next endpoint. Fails when one of them reaches no endpoint at all.
    pub async fn connect(options: ClientOptions, count: usize) -> Result<Pool, ConnectError> {
        let mut connections = Vec::new();
        for i in 0..count.max(1) {
            let first = options.first + i;
            let one = ClientOptions {
                first,
                ..options.clone()
            };
            connections.push(Client::connect(one).await?);
        }
        let table = Table::learn(&connections).await;
        let table = RwLock::new(table);
        let asking = AtomicBool::new(false);
        Ok(Pool(Arc::new(Inner {
            connections,
            table,
            asking,
        })))
    }

    /// A connection to the node that leads the key's range, as far as is known; otherwise any that is up. Requests of
    /// one range share a connection: what waits together travels together.
    pub fn for_key(&self, key: &[u8]) -> &Client {
        let inner = &self.0;
        let (choice, stale) = {
            let table = inner.table.read().unwrap_or_else(PoisonError::into_inner);
            (
                table.choose(key, &inner.connections),
                table.learned.elapsed() > ROUTES_AGE_MAX,
            )
        };
        if stale && !inner.asking.swap(true, Ordering::Relaxed) {
            let inner = Arc::clone(inner);
            tokio::spawn(async move { inner.refresh().await });
        }
        &inner.connections[choice]
    }

    /// All connections.
    pub fn connections(&self) -> &[Client] {
        &self.0.connections
    }
}

impl Inner {
    async fn refresh(&self) {
        let table = Table::learn(&self.connections).await;
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = table;
        self.asking.store(false, Ordering::Relaxed);
    }
}

impl Table {
    /// Asks every connection whom it leads to, and the first that answers for the ranges.
    async fn learn(connections: &[Client]) -> Table {
        let mut table = Table {
            learned: Instant::now(),
            routes: Routes::default(),
            at: BTreeMap::new(),
        };
        for (i, connection) in connections.iter().enumerate().filter(|(_, one)| one.is_up()) {
            let with_ranges = table.routes.ranges.is_empty();
            // One that does not answer is not chosen; its own calls tell the caller why.
            let Ok(answer) = connection.with_timeout(ROUTES_TIMEOUT).routes(with_ranges).await else {
                continue;
            };
            table.at.entry(answer.node).or_default().push(i);
            if with_ranges {
                table.routes = answer;
            }
        }
        table
    }

    fn choose(&self, key: &[u8], connections: &[Client]) -> usize {
        let ranges = &self.routes.ranges;
        let range = ranges.partition_point(|range| range.start[..] <= *key);
        let leader = range.checked_sub(1).and_then(|at| ranges[at].leader);
        let there = leader
            .and_then(|leader| self.at.get(&leader))
            .map_or(&[][..], Vec::as_slice);
        let up = |i: &usize| connections[*i].is_up();
        let wanted = there
            .iter()
            .cycle()
            .skip(range)
            .take(there.len())
            .copied()
            .find(up);
        let anyone = || {
            (0..connections.len())
                .cycle()
                .skip(range)
                .take(connections.len())
                .find(up)
        };
        wanted.or_else(anyone).unwrap_or(range % connections.len())
    }
}
