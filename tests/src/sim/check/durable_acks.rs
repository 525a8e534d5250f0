//! I8: an acknowledgement names only what is durable on the acknowledging disk when it leaves (Raft §5.3, Fig. 2
//! "persistent state"), and in a term that is durable too.

use super::{Verdict, View, require};
use multiraft::wire::GroupMessage;
use multiraft::{Index, NodeId};
use raft_core::{AppendOutcome, Message};

const NAME: &str = "I8 acknowledged means durable";

pub(super) fn on_sent(view: &View, node: NodeId, message: &GroupMessage) -> Verdict {
    let (group, envelope) = (message.group, &message.envelope);
    let index = match &envelope.message {
        Message::AppendReply(AppendOutcome::Matched { index }) => *index,
        Message::HeartbeatReply { matched, .. } => *matched,
        _ => return Ok(()),
    };
    if index == Index(0) {
        return Ok(());
    }
    let durable = view.durable(node, group, |log| (log.last().index, log.hard_state.term));
    let (last, term) = durable.unwrap_or_default();
    require(index <= last && envelope.term <= term, NAME, || {
        format!(
            "{group}: {} acknowledges {index} in term {}, durable is {last} in term {term}",
            envelope.from, envelope.term
        )
    })
}
