//! scratch
#[tokio::main]
async fn main() {
    let mut server = knarr_apiserver::testing::start().await;
    let url = server.url().await;
    println!("{url}");
    std::future::pending::<()>().await;
}
