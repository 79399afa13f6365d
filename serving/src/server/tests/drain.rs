//! The end of a server.

use super::*;

/// Idle connections close, running requests end first, and the server with them.
#[test]
fn a_drain_waits_for_requests() {
    local(async {
        let (app, _hop, proxy) = app_and_hop(|hop| hop).await;
        let mut idle = send(proxy.address, GET).await;
        let mut at_app = accept(&app).await;
        read_head(&mut at_app).await;
        write(&mut at_app, OK).await;
        read_until(&mut idle, "ok").await;
        let mut running = send(proxy.address, GET).await;
        read_head(&mut at_app).await;
        let mut silent = TcpStream::connect(proxy.address).await.expect("connected");
        proxy.shutdown.drain();
        assert_eq!(read_rest(&mut idle).await, "");
        assert_eq!(read_rest(&mut silent).await, "");
        assert!(!proxy.task.is_finished());
        write(&mut at_app, OK).await;
        let answer = read_rest(&mut running).await;
        assert!(
            answer.ends_with("ok") && answer.contains("Connection: close\r\n"),
            "{answer}"
        );
        proxy.task.await.expect("served");
        assert!(TcpStream::connect(proxy.address).await.is_err());
    });
}

#[test]
fn a_stop_does_not_wait() {
    local(async {
        let (app, hop, proxy) = app_and_hop(|hop| hop).await;
        let mut client = send(proxy.address, GET).await;
        let mut app = accept(&app).await;
        read_head(&mut app).await;
        proxy.shutdown.stop();
        assert_eq!(read_rest(&mut client).await, "");
        proxy.task.await.expect("served");
        assert_eq!(hop.handling.get(), 0);
    });
}
