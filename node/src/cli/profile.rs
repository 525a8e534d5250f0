//! `client.toml`: what a client next to a running `dev` needs to know, written by `dev` into its data directory, so
//! that `flotilla kv get k` needs no flags.

use crate::exit::{Code, Failure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file's name.
pub const FILE: &str = "client.toml";
/// Where `dev` keeps its data unless told otherwise, and where a profile is looked for.
pub const DEV_DIRECTORY: &str = "./flotilla-dev";

/// Endpoints and certificates of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `host:port` of QUIC endpoints.
    pub endpoints: Vec<String>,
    /// `host:port` where Redis clients are served.
    pub resp: Vec<String>,
    /// The CA's certificate; a relative path starts at the file's directory.
    pub ca: PathBuf,
    /// The client's certificate; likewise.
    pub cert: PathBuf,
    /// The client's private key; likewise.
    pub key: PathBuf,
}

impl Profile {
    /// The profile of a `dev` cluster whose certificates lie in the data directory itself.
    pub fn of_dev(endpoints: Vec<String>, resp: Vec<String>) -> Profile {
        Profile {
            endpoints,
            resp,
            ca: "ca.crt".into(),
            cert: "client.crt".into(),
            key: "client.key".into(),
        }
    }

    /// Writes the file into `directory`; replaces one that is there.
    pub fn write(&self, directory: &Path) -> std::io::Result<()> {
        let text = toml::to_string(self).expect("a profile is plain TOML");
        let head =
            "# Written by `flotilla dev`; read by the other commands when they are given no endpoints.\n";
        std::fs::write(directory.join(FILE), format!("{head}{text}"))
    }

    /// The profile in `directory`, None if there is none. Paths are made relative to where we are.
    pub fn read(directory: &Path) -> Result<Option<Profile>, Failure> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(&path, &error.to_string())),
        };
        let profile: Profile = toml::from_str(&text).map_err(|error| unreadable(&path, error.message()))?;
        Ok(Some(Profile {
            ca: directory.join(profile.ca),
            cert: directory.join(profile.cert),
            key: directory.join(profile.key),
            ..profile
        }))
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::new(Code::Configuration, format!("{}: {why}", path.display()))
        .hint("start `flotilla dev` again, which rewrites it, or give --endpoints, --ca, --cert and --key")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dev_writes_is_found() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(Profile::read(directory.path()), Ok(None));
        let profile = Profile::of_dev(vec!["127.0.0.1:7400".to_string()], vec![]);
        profile.write(directory.path()).expect("written");
        let found = Profile::read(directory.path()).expect("sound").expect("there");
        assert_eq!(found.endpoints, profile.endpoints);
        assert_eq!(found.key, directory.path().join("client.key"));
        std::fs::write(directory.path().join(FILE), "endpoints = 3").expect("written");
        assert_eq!(
            Profile::read(directory.path()).expect_err("damaged").code,
            Code::Configuration
        );
    }
}
