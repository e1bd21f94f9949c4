//! Tasks that their component cannot do without.
//!
//! tokio keeps a panic to the task in which it happens, and whoever does not wait for that task never hears of it: a component
//! whose watch has ended so goes on for ever with what it knew before. Upstream's processes end at any panic and are started
//! again. Here one process may hold all components, so it is the component that ends: its supervisor starts it again.

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct EndOnPanic(CancellationToken);

impl Drop for EndOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.cancel();
        }
    }
}

/// Spawns a task that cancels `component` should it panic. An orderly end, and being aborted, cancel nothing.
///
/// `component` is what was handed to the component's `run`: then `run` returns, with all other tasks put down.
pub fn vital<F>(component: &CancellationToken, task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let end = EndOnPanic(component.clone());
    tokio::spawn(async move {
        let _end = end;
        task.await
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_ends_the_component_and_nothing_else_does() {
        let [panics, ends, aborted] = [(); 3].map(|()| CancellationToken::new());
        let failed = vital(&panics, async { std::hint::black_box(None::<()>).expect("to be there") }).await;
        vital(&ends, async {}).await.unwrap();
        let waiting = vital(&aborted, std::future::pending::<()>());
        waiting.abort();
        assert!(failed.unwrap_err().is_panic() && waiting.await.unwrap_err().is_cancelled());
        assert_eq!([panics, ends, aborted].map(|token| token.is_cancelled()), [true, false, false]);
    }
}
