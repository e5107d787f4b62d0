//! The YAML world: documents with their places, the Gateway API's kinds and the core kinds that Portway
//! reads, their names, and their validation.
//!
//! ```text
//! text ──yaml──► Document ──validate──► defaults applied, Diagnostics ──serde──► Object<Spec, Status>
//!
//! CRDs ──xtask──► gateway, portway (generated types) ─┐
//! k8s-openapi ──► core (slim core kinds)  ────────────┴─► Object<Spec, Status>, named by ObjectKey
//! ```
#![forbid(unsafe_code)]

pub mod core;
pub mod crds;
pub mod diagnostic;
pub mod gateway;
pub mod object;
pub mod path;
pub mod portway;
pub mod validate;
pub mod yaml;

mod open_enum;
