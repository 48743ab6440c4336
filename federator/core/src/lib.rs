//! What the federator plans: inventory in, plan or refusal out.
//!
//! No I/O, no clock, no randomness: time enters as microseconds since the Unix epoch, ids as
//! values. What each datacenter says is an [`inventory::Inventory`]; a planner turns it and an
//! intent into a [`plan::Plan`] or into refusals with their reasons; [`change`] holds every change
//! that an executor may make to a federation record.

pub mod approval;
pub mod change;
pub mod conditions;
pub mod configuration;
pub mod consumers;
pub mod discarded;
pub mod document;
pub mod evidence;
pub mod formula;
pub mod grants;
pub mod guards;
pub mod history;
pub mod inventory;
pub mod links;
pub mod loss;
pub mod plan;
pub mod planner;
pub mod quote;
pub mod readiness;
pub mod report;
pub mod resume;
pub mod rotation;
pub mod runway;
pub mod seeding;
pub mod sequences;
pub mod topology;
pub mod ways;
pub mod window;

#[cfg(test)]
mod fixture;
