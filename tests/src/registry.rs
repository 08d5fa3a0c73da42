//! A registry on this machine: the reference implementation of the distribution specification, behind the proxy.

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::proxy::{Answer, Proxy, Request};
use crate::{mif, tool};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// A registry without images, which ends when it is dropped.
pub struct Registry {
    child: Child,
    proxy: Proxy,
    folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts a registry. With a line of a file of `htpasswd`, only that user may read and write.
    #[must_use]
    pub fn new(user: Option<&str>) -> Self {
        let folder = tempfile::tempdir_in(crate::cache()).expect("the cache is writable");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
        let at = |name: &str| folder.path().join(name);
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n  \
             secret: test\nlog:\n  level: error\n",
            at("data").display()
        );
        if let Some(line) = user {
            std::fs::write(at("users"), line).expect("the cache is writable");
            config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", at("users").display());
        }
        std::fs::write(at("config.yml"), config).expect("the cache is writable");
        let mut command = tool("docker-registry");
        command.arg("serve").arg(at("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("the registry starts");
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < START, "the registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { child, proxy: Proxy::new(port, |_, _| None), folder }
    }

    /// Returns the registry's host and port.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.proxy.port())
    }

    /// Returns the URL of an image: `repository:tag`.
    #[must_use]
    pub fn url(&self, image: &str) -> String {
        format!("oci://{}/{image}", self.host())
    }

    /// Returns the program, to be run on a store in a directory.
    #[must_use]
    pub fn mif(&self, store: &Path) -> Command {
        let mut command = mif(store);
        self.set(&mut command);
        command
    }

    /// Sets the variables with which a program uses the registry, without credentials and with a cache of its own.
    pub fn set(&self, command: &mut Command) {
        command
            .env("OCI_ALLOW_HTTP", "true")
            .env("XDG_CACHE_HOME", self.folder.path().join("cache"))
            .env("DOCKER_CONFIG", self.folder.path().join("docker"))
            .env("XDG_RUNTIME_DIR", self.folder.path().join("run"))
            .env_remove("REGISTRY_AUTH_FILE");
    }

    /// Sets what the proxy does with each request from now on.
    pub fn rule(&self, rule: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.proxy.rule(rule);
    }

    /// Returns the requests since the last call.
    #[must_use]
    pub fn take_log(&self) -> Vec<Request> {
        self.proxy.take_log()
    }

    /// Returns skopeo, which copies images between registries and directories, for this registry.
    #[must_use]
    pub fn skopeo(&self, verb: &str) -> Command {
        let mut command = tool("skopeo");
        command.arg(verb);
        match verb {
            "copy" => command.args(["--src-tls-verify=false", "--dest-tls-verify=false"]),
            _ => command.arg("--tls-verify=false"),
        };
        command
    }
}
