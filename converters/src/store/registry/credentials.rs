//! Credentials for a registry, where docker, podman and skopeo keep them.

use docker_credential::{
    CredentialRetrievalError as Failure, DockerCredential, get_credential, get_podman_credential,
};
use oci_client::secrets::RegistryAuth;

use crate::error::{Error, Result};
use crate::store::RegistryPlace;

/// The name under which docker keeps the credentials of its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The user name with which Azure's registries accept an identity token as the password.
const TOKEN_USER: &str = "00000000-0000-0000-0000-000000000000";

/// Returns the credentials for a registry from podman's file, or else from docker's or one of its helpers.
pub(super) fn credentials(host: &str, place: &RegistryPlace) -> Result<RegistryAuth> {
    let names: &[&str] = match host {
        "index.docker.io" => &[DOCKER_HUB, "docker.io", "index.docker.io"],
        host => &[host],
    };
    for name in names {
        for get in [get_podman_credential, get_credential] {
            match get(name) {
                Ok(DockerCredential::UsernamePassword(user, password)) => {
                    return Ok(RegistryAuth::Basic(user, password));
                }
                Ok(DockerCredential::IdentityToken(token)) => {
                    return Ok(RegistryAuth::Basic(TOKEN_USER.to_owned(), token));
                }
                Err(Failure::ConfigNotFound | Failure::ConfigReadError | Failure::NoCredentialConfigured) => {
                }
                // A helper that was asked in vain has no credentials: docker goes on without them, too.
                Err(Failure::HelperFailure { stdout, .. }) if stdout.contains("not found") => {}
                Err(e) => {
                    let text = match &e {
                        // What a helper prints may be a secret.
                        Failure::HelperFailure { helper, .. } => {
                            format!("the credential helper {helper} failed")
                        }
                        e => e.to_string(),
                    };
                    return Err(Error::input(format!("{place}: {text}"))
                        .advise("Check ~/.docker/config.json, and podman's auth.json, or log in again"));
                }
            }
        }
    }
    Ok(RegistryAuth::Anonymous)
}
