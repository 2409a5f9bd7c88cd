use proptest::prelude::*;

use super::*;

/// A frame as a client writes it.
fn masked(first: u8, mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = BytesMut::new();
    put(first, &[], &mut frame);
    frame.clear();
    put(first, payload, &mut frame);
    let header = frame.len() - payload.len();
    let mut bytes = frame[..header].to_vec();
    bytes[1] |= 0x80;
    bytes.extend(mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    bytes
}

fn read(bytes: &[u8]) -> Result<Vec<Piece>, FrameError> {
    let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::from(bytes));
    let mut pieces = Vec::new();
    while let Some(piece) = decoder.next(&mut bytes)? {
        pieces.push(piece);
    }
    Ok(pieces)
}

#[test]
fn the_example_of_the_rfc_is_read() {
    // "Hello", masked, as binary.
    let bytes = [
        0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    let hello = Bytes::from_static(b"Hello");
    assert_eq!(read(&bytes), Ok(vec![Piece::Data(hello)]));
}

#[test]
fn a_ping_inside_a_message_is_a_piece_of_its_own() {
    let mask = [1, 2, 3, 4];
    let bytes = [
        masked(0x02, mask, b"ab"),
        masked(0x89, mask, b"?"),
        masked(0x80, mask, b"cd"),
        masked(0x8a, mask, b""),
        masked(0x88, mask, &[3, 232]),
    ];
    let wanted = vec![
        Piece::Data(Bytes::from_static(b"ab")),
        Piece::Ping(Bytes::from_static(b"?")),
        Piece::Data(Bytes::from_static(b"cd")),
        Piece::Pong,
        Piece::Close,
    ];
    assert_eq!(read(&bytes.concat()), Ok(wanted));
}

#[test]
fn what_no_client_may_send_is_refused_with_its_code() {
    let mask = [9; 4];
    let long = [0; 126];
    for (bytes, error, code) in [
        (masked(0x81, mask, b"text"), FrameError::Text, 1003),
        (masked(0xc2, mask, b"x"), FrameError::Extension, 1002),
        (masked(0x83, mask, b"x"), FrameError::Kind(3), 1002),
        (vec![0x82, 0x01, b'x'], FrameError::NotMasked, 1002),
        (masked(0x09, mask, b"x"), FrameError::Control, 1002),
        (masked(0x89, mask, &long), FrameError::Control, 1002),
        (masked(0x80, mask, b"x"), FrameError::Order, 1002),
        (
            [masked(0x02, mask, b"x"), masked(0x82, mask, b"x")].concat(),
            FrameError::Order,
            1002,
        ),
        (
            [&[0x82, 0xff][..], &[0xff; 12][..]].concat(),
            FrameError::Length,
            1002,
        ),
    ] {
        assert_eq!(read(&bytes), Err(error));
        assert_eq!(error.close_code(), code, "{error}");
    }
}

#[test]
fn a_huge_frame_is_handed_on_as_it_comes() {
    let mut bytes = BytesMut::from(&[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 7][..]);
    let mut decoder = Decoder::default();
    let piece = decoder.next(&mut bytes);
    assert_eq!(piece, Ok(Some(Piece::Data(Bytes::from_static(&[7])))));
    assert_eq!(decoder.next(&mut bytes), Ok(None));
    bytes.extend_from_slice(&[8, 9]);
    let piece = decoder.next(&mut bytes);
    assert_eq!(piece, Ok(Some(Piece::Data(Bytes::from_static(&[8, 9])))));
    assert!(bytes.is_empty(), "nothing is kept");
}

proptest! {
    /// However data is cut into frames, and frames into reads, the same bytes come out.
    #[test]
    fn data_comes_through_whatever_it_is_cut_into(
        frames in prop::collection::vec(
            (any::<[u8; 4]>(), prop::collection::vec(any::<u8>(), 0..300)), 1..8),
        step in 1_usize..40,
    ) {
        let last = frames.len() - 1;
        let mut bytes = Vec::new();
        for (index, (mask, payload)) in frames.iter().enumerate() {
            let opcode = if index == 0 { 2 } else { 0 };
            let fin = if index == last { 0x80 } else { 0 };
            bytes.extend(masked(fin | opcode, *mask, payload));
        }
        let (mut decoder, mut buffer, mut found) = (Decoder::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(step) {
            buffer.extend_from_slice(part);
            while let Some(piece) = decoder.next(&mut buffer).expect("good frames") {
                let Piece::Data(data) = piece else { panic!("{piece:?}") };
                found.extend_from_slice(&data);
            }
        }
        prop_assert!(buffer.is_empty());
        prop_assert_eq!(found, frames.into_iter().flat_map(|(_, data)| data).collect::<Vec<_>>());
    }

    /// Bytes of strangers: pieces, an error or a wait for more, never a panic, and what is kept is
    /// at most a control frame.
    #[test]
    fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let (mut decoder, mut bytes) = (Decoder::default(), BytesMut::from(&bytes[..]));
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(_)) => {}
                Ok(None) => { prop_assert!(bytes.len() < 140); break; }
                Err(_) => break,
            }
        }
    }
}
