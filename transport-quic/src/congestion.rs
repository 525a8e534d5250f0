//! Congestion control of a link: quinn's controllers, with a floor under their window. Knows no peer and no lane.
//!
//! Why a floor: while a path is cut, all packets of that time are lost, and a controller answers with a window of two packets
//! (RFC 9002 §7.6). Then nothing new may leave while those two are not acknowledged, and they are repeated after pauses
//! that double (§6.2.1): the longer a path was cut, or the more often, the longer after it is mended is the link silent.
//! With room for a few heartbeats the first of them is acknowledged at once, which ends the pauses.

use crate::limits::WINDOW_FLOOR;
use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics};
use quinn_proto::RttEstimator;
use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

/// Builds what another factory builds, with the floor.
pub(crate) struct Floored<F>(pub(crate) Arc<F>);

impl<F: ControllerFactory> ControllerFactory for Floored<F> {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Floor(Arc::clone(&self.0).build(now, current_mtu)))
    }
}

struct Floor(Box<dyn Controller>);

impl Controller for Floor {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.0.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.0.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest: Option<u64>) {
        self.0.on_end_acks(now, in_flight, app_limited, largest);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        self.0.on_congestion_event(now, sent, is_persistent, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.0.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.0.window().max(WINDOW_FLOOR)
    }

    fn metrics(&self) -> ControllerMetrics {
        self.0.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Floor(self.0.clone_box()))
    }

    fn initial_window(&self) -> u64 {
        self.0.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.0.into_any()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quinn::congestion::CubicConfig;

    #[test]
    fn a_path_that_was_cut_leaves_room_for_heartbeats() {
        let now = Instant::now();
        let plain = Arc::new(CubicConfig::default());
        let mut bare = Arc::clone(&plain).build(now, 1200);
        let mut floored = Arc::new(Floored(plain)).build(now, 1200);
        for controller in [&mut bare, &mut floored] {
            controller.on_congestion_event(now, now, true, 100_000);
        }
        assert!(bare.window() < 4 * 1200, "{}", bare.window());
        assert_eq!(floored.window(), WINDOW_FLOOR);
        assert_eq!(floored.clone_box().window(), WINDOW_FLOOR);
    }
}
