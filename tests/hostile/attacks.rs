//! What is known to have brought HTTP/2 servers down, each against the binary, with a well-behaved
//! client beside it: memory and CPU time stay bounded and that client is served.

use std::time::Duration;

use tests::app::App;
use tests::h2::{
    self, CANCEL, CONTINUATION, Client, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GET,
    GOAWAY, HEADERS, PING, PRIORITY, RST_STREAM, SETTINGS, block, frame, get, integer, literal,
    post, reset, settings, window_update,
};
use tests::sidecar::{SidecarProcess, Usage, with_binary};
use tests::within;
use tokio::time::timeout;

/// What a binary may grow by under any of these.
const GROWTH: u64 = 64 << 20;

/// How long an ordinary request may take meanwhile, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client that reads nothing is not read from for ever: what is not taken for so long never is.
const STALL: Duration = Duration::from_millis(500);

/// What an attack is run against.
struct Scene {
    app: App,
    sidecar: SidecarProcess,
    before: Usage,
}

impl Scene {
    async fn set() -> Self {
        let app = App::start().await;
        let sidecar = SidecarProcess::start(app.address).await;
        // The first request pays for things that stay.
        let mut client = Client::connect(sidecar.address, &[]).await;
        client.send(&get(1)).await;
        client.answer(1).await;
        let before = sidecar.usage();
        Self {
            app,
            sidecar,
            before,
        }
    }

    async fn client(&self) -> Client {
        Client::connect(self.sidecar.address, &[]).await
    }

    /// Sends `bytes` again and again, at most `times`, without reading an answer, while another
    /// client is served; whether all were taken.
    async fn flood(&self, client: &mut Client, bytes: &[u8], times: usize) -> bool {
        let flood = async {
            for _ in 0..times {
                match timeout(STALL, client.send(bytes)).await {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return false,
                }
                tokio::task::yield_now().await;
            }
            true
        };
        let (taken, ()) = futures_util::join!(flood, self.assert_served(10));
        taken
    }

    /// Another client gets answers.
    async fn assert_served(&self, times: u32) {
        let mut other = self.client().await;
        for stream in (0..times).map(|at| 2 * at + 1) {
            let served = timeout(PATIENCE, async {
                other.send(&get(stream)).await;
                other.answer(stream).await
            });
            let frames = served.await.expect("an answer in time");
            assert_eq!(h2::status(&frames, stream), Some(200), "{frames:?}");
        }
    }

    /// Memory and time since the beginning.
    fn assert_bounded(&self, cpu: Duration) {
        let (before, after) = (self.before, self.sidecar.usage());
        assert!(after.peak < before.peak + GROWTH, "{before:?} {after:?}");
        assert!(after.cpu < before.cpu + cpu, "{before:?} {after:?}");
    }
}

/// The code of the GOAWAY that ended the connection.
async fn goaway(client: &mut Client) -> Option<u32> {
    let frames = client.rest().await;
    let goaway = frames.iter().rfind(|it| it.kind == GOAWAY)?;
    goaway.code()
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[test]
fn rapid_reset() {
    with_binary(async {
        let scene = Scene::set().await;
        let mut client = scene.client().await;
        let burst: Vec<u8> = (0..20_000u32)
            .flat_map(|at| [get(2 * at + 1), reset(2 * at + 1, CANCEL)].concat())
            .collect();
        scene.flood(&mut client, &burst, 1).await;
        assert_eq!(goaway(&mut client).await, Some(ENHANCE_YOUR_CALM));
        // Of 20,000 requests the app has seen few: those before the count was full.
        assert!(scene.app.requests() < 2000, "{}", scene.app.requests());
        scene.assert_served(10).await;
        scene.assert_bounded(Duration::from_secs(5));
    });
}

/// The same, but slow enough for every stream to be looked at: nothing piles up at the app.
#[test]
fn resets_after_the_app_has_begun() {
    with_binary(async {
        let scene = Scene::set().await;
        let mut client = scene.client().await;
        let fields = GET.map(|it| {
            if it.0 == ":path" {
                (":path", "/hold")
            } else {
                it
            }
        });
        let head = block(&fields);
        for at in 0..300u32 {
            let stream = 2 * at + 1;
            let before = scene.app.requests();
            let request = frame(HEADERS, END_STREAM | END_HEADERS, stream, &head);
            if !client.send(&request).await {
                break;
            }
            within(PATIENCE, "arrival", || async {
                (scene.app.requests() > before).then_some(()).ok_or(at)
            })
            .await;
            client.send(&reset(stream, CANCEL)).await;
        }
        within(PATIENCE, "the end of all", || async {
            let running = scene.app.running();
            (running == 0).then_some(()).ok_or(running)
        })
        .await;
        assert!(scene.app.most() < 50, "{} at once", scene.app.most());
        scene.assert_served(10).await;
        scene.assert_bounded(Duration::from_secs(10));
    });
}

/// The frames that make a server reset a stream.
type Provoke = fn(u32) -> Vec<u8>;

/// CVE-2025-8671: the client's frames make the server reset the streams.
#[test]
fn made_you_reset() {
    let provocations: [(&str, Provoke); 4] = [
        ("no increment", |stream| window_update(stream, 0)),
        ("a window too large", |stream| {
            [
                window_update(stream, 0x7fff_ffff),
                window_update(stream, 0x7fff_ffff),
            ]
            .concat()
        }),
        ("a dependency on itself", |stream| {
            frame(
                PRIORITY,
                0,
                stream,
                &[&stream.to_be_bytes()[..], &[0]].concat(),
            )
        }),
        ("DATA beyond the length", |stream| {
            frame(DATA, END_STREAM, stream, b"too much")
        }),
    ];
    with_binary(async {
        for (name, provoke) in provocations {
            let scene = Scene::set().await;
            let mut client = scene.client().await;
            let mut fields = h2::POST.to_vec();
            fields.push(("content-length", "1"));
            let head = block(&fields);
            let burst: Vec<u8> = (0..20_000u32)
                .map(|at| 2 * at + 1)
                .flat_map(|stream| {
                    [frame(HEADERS, END_HEADERS, stream, &head), provoke(stream)].concat()
                })
                .collect();
            scene.flood(&mut client, &burst, 1).await;
            let code = goaway(&mut client).await;
            assert!(code.is_some_and(|code| code != 0), "{name}: {code:?}");
            assert!(
                scene.app.requests() < 5000,
                "{name}: {}",
                scene.app.requests()
            );
            assert!(scene.app.most() <= 300, "{name}: {}", scene.app.most());
            scene.assert_served(10).await;
            scene.assert_bounded(Duration::from_secs(10));
        }
    });
}

/// CVE-2024-27316 and its like: a header block without end.
#[test]
fn continuation_flood() {
    with_binary(async {
        for (name, size) in [("empty", 0), ("small", 10), ("full", 16384)] {
            let scene = Scene::set().await;
            let mut client = scene.client().await;
            client
                .send(&frame(HEADERS, END_STREAM, 1, &block(&GET)))
                .await;
            // The beginning of a literal that never ends, or nothing at all.
            let mut text = vec![0x00, 0x01, b'x', 0x7f, 0xff, 0xff, 0xff, 0x7f];
            text.resize(size.max(text.len()), b'v');
            text.truncate(size);
            let taken = scene
                .flood(&mut client, &frame(CONTINUATION, 0, 1, &text), 50_000)
                .await;
            assert!(!taken, "{name}: all were taken");
            let requests = scene.app.requests();
            scene.assert_served(1).await;
            assert_eq!(scene.app.requests(), requests + 1, "{name}");
            scene.assert_bounded(Duration::from_secs(5));
        }
    });
}

/// Frames that want an answer, from a client that reads none.
#[test]
fn control_floods() {
    let floods = [
        ("PING", frame(PING, 0, 0, b"01234567")),
        ("SETTINGS", settings(&[(4, 65535)])),
        ("SETTINGS that say nothing", frame(SETTINGS, 0, 0, &[])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 9])),
        ("unknown frames", frame(0xfa, 0, 0, b"01234567")),
        ("acknowledgements", frame(PING, 1, 0, b"01234567")),
    ];
    with_binary(async {
        let scene = Scene::set().await;
        for (_, bytes) in floods {
            let mut client = scene.client().await;
            scene.flood(&mut client, &bytes.repeat(1000), 100).await;
        }
        scene.assert_bounded(Duration::from_secs(30));
    });
}

/// DATA frames that carry nothing, or next to nothing, for an app that does not read.
#[test]
fn empty_data_flood() {
    with_binary(async {
        for (name, data) in [
            ("empty", frame(DATA, 0, 1, b"")),
            ("padding only", frame(DATA, h2::PADDED, 1, &[3, 0, 0, 0])),
            ("one byte", frame(DATA, 0, 1, b"x")),
        ] {
            let scene = Scene::set().await;
            let mut client = scene.client().await;
            client.send(&post(1)).await;
            scene.flood(&mut client, &data.repeat(1000), 300).await;
            scene.assert_served(1).await;
            let (before, after) = (scene.before, scene.sidecar.usage());
            assert!(
                after.peak < before.peak + GROWTH,
                "{name}: {before:?} {after:?}"
            );
            scene.assert_bounded(Duration::from_secs(15));
        }
    });
}

/// A small block that decodes to a large one: one large field, or a great many small ones, put into
/// the table once and named again and again.
#[test]
fn header_bombs() {
    with_binary(async {
        for (name, length, times) in [("large", 4000, 20_000), ("small", 0, 60_000)] {
            let scene = Scene::set().await;
            let mut client = scene.client().await;
            let mut seed = block(&GET);
            literal(&mut seed, 0x40, b"x", "v".repeat(length).as_bytes());
            client
                .send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &seed))
                .await;
            let first = client.answer(1).await;
            assert_eq!(h2::status(&first, 1), Some(200), "{name}: {first:?}");
            let requests = scene.app.requests();
            let mut bomb = block(&GET);
            let mut again = Vec::new();
            integer(&mut again, 0x80, 7, 62);
            bomb.extend(again.repeat(times));
            let bombs: Vec<u8> = (1..=100u32)
                .flat_map(|at| {
                    let stream = 2 * at + 1;
                    let mut pieces = bomb.chunks(16384);
                    let first = pieces.next().unwrap_or_default();
                    let mut bytes = frame(HEADERS, END_STREAM, stream, first);
                    for piece in pieces {
                        bytes.extend(frame(CONTINUATION, 0, stream, piece));
                    }
                    bytes.extend(frame(CONTINUATION, END_HEADERS, stream, b""));
                    bytes
                })
                .collect();
            scene.flood(&mut client, &bombs, 1).await;
            scene.assert_served(1).await;
            // Only ordinary requests have come through.
            assert_eq!(scene.app.requests(), requests + 11, "{name}");
            scene.assert_bounded(Duration::from_secs(20));
        }
    });
}

/// As large as headers may be, on as many streams as there may be, for an app that never answers.
#[test]
fn many_headers_on_many_streams() {
    with_binary(async {
        let scene = Scene::set().await;
        let mut client = scene.client().await;
        let fields = GET.map(|it| {
            if it.0 == ":path" {
                (":path", "/hold")
            } else {
                it
            }
        });
        let mut seed = block(&fields);
        literal(&mut seed, 0x40, b"x", b"");
        client
            .send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &seed))
            .await;
        let mut head = block(&fields);
        let mut again = Vec::new();
        integer(&mut again, 0x80, 7, 62);
        head.extend(again.repeat(15_000));
        let burst: Vec<u8> = (1..250u32)
            .flat_map(|at| frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, &head))
            .collect();
        scene.flood(&mut client, &burst, 1).await;
        scene.assert_bounded(Duration::from_secs(20));
    });
}

/// 6.5.2: no more than 250 at once, whatever a client opens.
#[test]
fn more_streams_than_allowed() {
    with_binary(async {
        let scene = Scene::set().await;
        let mut client = scene.client().await;
        let fields = GET.map(|it| {
            if it.0 == ":path" {
                (":path", "/hold")
            } else {
                it
            }
        });
        let head = block(&fields);
        let burst: Vec<u8> = (0..2000u32)
            .flat_map(|at| frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, &head))
            .collect();
        client.send(&burst).await;
        let refused = timeout(PATIENCE, async {
            let seen = client
                .until(|it| it.kind == GOAWAY || it.kind == RST_STREAM)
                .await;
            seen.last().and_then(h2::Frame::code)
        });
        let code = refused.await.expect("a refusal in time");
        assert!(code.is_none_or(|code| code != 0), "{code:?}");
        scene.assert_served(10).await;
        assert!(scene.app.most() <= 250 + 1, "{} at once", scene.app.most());
        scene.assert_bounded(Duration::from_secs(5));
    });
}

/// An answer that trickles into a window of one byte at a time costs the client more than us.
#[test]
fn tiny_windows() {
    with_binary(async {
        let scene = Scene::set().await;
        let mut client = Client::connect(scene.sidecar.address, &[(4, 0)]).await;
        let fields = GET.map(|it| {
            if it.0 == ":path" {
                (":path", "/endless")
            } else {
                it
            }
        });
        let head = block(&fields);
        for at in 0..100u32 {
            client
                .send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * at + 1, &head))
                .await;
        }
        let updates: Vec<u8> = (0..100u32)
            .flat_map(|at| window_update(2 * at + 1, 1))
            .collect();
        scene.flood(&mut client, &updates, 100).await;
        scene.assert_bounded(Duration::from_secs(15));
    });
}
