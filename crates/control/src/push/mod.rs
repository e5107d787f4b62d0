//! What the push needs of the cluster: who a proxy is (TokenReview), and the authority by which proxies know the
//! controller (a Secret in the controller's namespace).

mod authority;
mod review;

pub use authority::{Authority, AuthorityError};
pub use review::TokenReviews;
