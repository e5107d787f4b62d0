//! The arguments that `run` and `proxy` share: how the data plane is set up, wherever its plan comes from.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use portway_proxy::{AccessLog, AccessLogFormat, AccessLogTarget, Options, Tracing};

/// Where the admin server is unless `--admin` says otherwise.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9900);

/// How the data plane is set up.
#[derive(clap::Args, Debug)]
pub(crate) struct DataPlane {
    /// Worker threads (default: the CPU quota)
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// Where /livez, /readyz, /metrics, /status and /plan answer, or `off` (default: 127.0.0.1:9900)
    #[arg(long, value_name = "ADDR")]
    admin: Option<Admin>,
    /// Logs each request, to standard output unless --access-log-file is given
    #[arg(long, value_enum, value_name = "FORMAT")]
    access_log: Option<LogFormat>,
    /// The access log's file, opened again when it is moved away
    #[arg(long, value_name = "FILE", requires = "access_log")]
    access_log_file: Option<PathBuf>,
    /// Sends traces with OTLP over HTTP, such as to http://127.0.0.1:4318/v1/traces
    #[arg(long, value_name = "URL")]
    otlp: Option<http::Uri>,
    /// The part of the traces begun here that are sampled, from 0 to 1
    #[arg(long, default_value_t = 1.0, requires = "otlp", value_name = "PART")]
    otlp_sampling: f64,
    /// How many proxies in front of this one are trusted to have written X-Forwarded-*
    #[arg(long, default_value_t = 0, value_name = "N")]
    trusted_hops: u32,
}

/// Where the admin server is.
#[derive(Clone, Copy, Debug)]
enum Admin {
    Off,
    At(SocketAddr),
}

impl std::str::FromStr for Admin {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::At) }
    }
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LogFormat {
    /// One JSON object per line
    Json,
    /// The combined log format of Apache and nginx
    Common,
}

impl DataPlane {
    /// Whether nobody said where the admin server is to be.
    pub(crate) fn default_admin(&self) -> bool {
        self.admin.is_none()
    }

    /// What they say.
    pub(crate) fn options(&self) -> Options {
        let target = self.access_log_file.clone().map_or(AccessLogTarget::Stdout, AccessLogTarget::File);
        let format = self.access_log.map(|format| match format {
            LogFormat::Json => AccessLogFormat::Json,
            LogFormat::Common => AccessLogFormat::Common,
        });
        let tracing = self.otlp.clone().map(|endpoint| Tracing {
            endpoint,
            sampling: self.otlp_sampling.clamp(0.0, 1.0),
            service_name: "portway".to_owned(),
        });
        Options {
            workers: self.workers,
            admin: match self.admin {
                None => Some(ADMIN),
                Some(Admin::At(address)) => Some(address),
                Some(Admin::Off) => None,
            },
            trusted_hops: self.trusted_hops,
            access_log: format.map(|format| AccessLog { format, target }),
            tracing,
            ..Options::default()
        }
    }
}
