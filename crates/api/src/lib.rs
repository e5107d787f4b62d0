//! The YAML world: the Gateway API's kinds and the core kinds that Portway reads, and their names.
//!
//! ```text
//! CRDs ──xtask──► gateway (generated types) ─┐
//! k8s-openapi ──► core (slim core kinds)  ───┴─► Object<Spec, Status>, named by ObjectKey
//! ```

pub mod core;
pub mod crds;
pub mod gateway;
pub mod object;

mod open_enum;
