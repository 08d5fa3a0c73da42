//! The first contact with a service: a wrong address is told soon, and a service that has answered once is waited for.
//!
//! The crate repeats a request that found nobody as long as one that was refused: half a minute, in which a user who
//! mistyped an endpoint sees nothing.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};

/// How long connections are tried while the service has never answered.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes clients that give up connecting after [`PATIENCE`] while nothing has answered them. What they know they share.
#[derive(Debug, Default)]
pub(super) struct Connector {
    contact: Arc<Mutex<Contact>>,
}

#[derive(Debug, Default)]
enum Contact {
    #[default]
    Untried,
    /// Nobody was there; since when.
    Failing(Instant),
    /// It has answered, whatever it said.
    Made,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Client { client, contact: self.contact.clone() }))
    }
}

#[derive(Debug)]
struct Client {
    client: HttpClient,
    contact: Arc<Mutex<Contact>>,
}

impl Client {
    /// Returns true if nobody has ever answered, for longer than [`PATIENCE`].
    fn is_hopeless(&self) -> bool {
        let mut contact = self.contact.lock().unwrap_or_else(PoisonError::into_inner);
        match *contact {
            Contact::Made => false,
            Contact::Failing(since) => since.elapsed() > PATIENCE,
            Contact::Untried => {
                *contact = Contact::Failing(Instant::now());
                false
            }
        }
    }
}

// What the macro of the crate `async_trait` makes of an asynchronous function.
impl HttpService for Client {
    fn call<'s, 'f>(
        &'s self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            match self.client.execute(request).await {
                Ok(response) => {
                    *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Contact::Made;
                    Ok(response)
                }
                // Errors of this kind are not repeated.
                Err(error) if error.kind() == HttpErrorKind::Connect && self.is_hopeless() => {
                    Err(HttpError::new(HttpErrorKind::Unknown, Nobody(error)))
                }
                Err(error) => Err(error),
            }
        })
    }
}

/// The service could not be connected to.
#[derive(Debug)]
struct Nobody(HttpError);

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing answers at its address")
    }
}

impl Error for Nobody {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}
