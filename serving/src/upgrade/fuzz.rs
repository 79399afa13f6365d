//! The frame tracker on arbitrary bytes.

use super::websocket::Position;

/// However a stream is cut into pieces, the tracker ends in the same place, and never passes a
/// boundary on the way to one. The first byte says how long the pieces are.
pub fn websocket(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let mut whole = Position::default();
    whole.pass(stream);
    let mut pieces = Position::default();
    for piece in stream.chunks(usize::from(*cut).max(1)) {
        pieces.pass(piece);
    }
    assert_eq!(whole, pieces);
    let mut stepwise = Position::default();
    let mut rest = stream;
    while let Some((first, after)) = rest.split_first() {
        stepwise.pass(std::slice::from_ref(first));
        let passed = stepwise.pass_to_boundary(after);
        assert!(passed == after.len() || stepwise.is_boundary());
        rest = &after[passed..];
    }
    assert_eq!(whole, stepwise);
}
