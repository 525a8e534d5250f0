//! The decoder of the Redis protocol as a function of bytes; see `crate::fuzzing`.

use super::codec::{Decoder, ProtocolError};

type Commands = (Vec<Vec<Vec<u8>>>, Option<ProtocolError>);

/// A stream of commands: however it is cut into pieces, the same commands come out. The first byte says how.
pub fn resp(data: &[u8]) -> bool {
    let Some((step, stream)) = data.split_first() else {
        return false;
    };
    let mut taken = false;
    for trusted in [false, true] {
        let whole = commands(std::iter::once(stream), trusted);
        let pieces = commands(stream.chunks(1 + usize::from(*step)), trusted);
        assert_eq!(whole, pieces, "a stream reads the same however it arrives");
        taken = whole.1.is_none();
    }
    taken
}

/// The commands in a stream, and the error that ended it.
fn commands<'a>(pieces: impl Iterator<Item = &'a [u8]>, trusted: bool) -> Commands {
    let (mut decoder, mut buffer, mut found) = (Decoder::default(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&buffer, trusted) {
                Ok(Some(length)) => {
                    let arguments = decoder.arguments(&buffer);
                    found.push(arguments.iter().map(<[u8]>::to_vec).collect());
                    buffer.drain(..length);
                    decoder.next();
                }
                Ok(None) => break,
                Err(error) => return (found, Some(error)),
            }
        }
        let _ = decoder.wanted(buffer.len());
    }
    (found, None)
}

/// Streams of commands.
pub fn resp_seeds() -> Vec<Vec<u8>> {
    let streams: [&[u8]; 7] = [
        b"\x03*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nva\r\nl\r\n*2\r\n$3\r\nGET\r\n$1\r\nk\r\n",
        b"\x00PING\r\nset k \"a\\x41\\n\" 'b\\'c'\r\n\r\n",
        b"\x05*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n",
        b"\x01*1\r\n$0\r\n\r\n",
        b"\x02*4\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n$2\r\nNX\r\n",
        b"\x00*2\r\n$4\r\nECHO\r\n$20000\r\nx",
        b"\xff*20\r\n$4\r\nMGET\r\n",
    ];
    streams.iter().map(|stream| stream.to_vec()).collect()
}
