//! What can be asked in and out of a transaction.

use crate::Perm;
use crate::error::{Error, Result};
use crate::wire::{Kind, Refusal, strings};

/// Operations that work on a connection and within a transaction.
pub trait Ops {
    /// Sends `parts` as one request about `subject` (for messages only) and returns the reply's payload.
    ///
    /// # Errors
    /// The daemon refused, or the connection broke. The same holds for all operations here.
    fn request(&self, kind: Kind, subject: &str, parts: &[&[u8]]) -> Result<Vec<u8>>;

    /// Reads a node.
    ///
    /// # Errors
    /// As [`request`](Self::request); ENOENT if there is none.
    fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.request(Kind::Read, path, &[path.as_bytes(), b"\0"])
    }

    /// Reads a node; `None` if there is none.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn read_opt(&self, path: &str) -> Result<Option<Vec<u8>>> {
        found(self.read(path))
    }

    /// Reads a node as text; bytes that are no UTF-8 are replaced.
    ///
    /// # Errors
    /// As [`request`](Self::request); ENOENT if there is none.
    fn read_string(&self, path: &str) -> Result<String> {
        self.read(path).map(into_string)
    }

    /// Reads a node as text; `None` if there is none.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn read_string_opt(&self, path: &str) -> Result<Option<String>> {
        found(self.read_string(path))
    }

    /// Tells whether a node exists.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.read_opt(path)?.is_some())
    }

    /// Writes a node, and makes its missing parents.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<()> {
        let parts: [&[u8]; 3] = [path.as_bytes(), b"\0", value.as_ref()];
        self.request(Kind::Write, path, &parts).map(drop)
    }

    /// Makes a node and its missing parents, all empty; what exists stays as it is.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn mkdir(&self, path: &str) -> Result<()> {
        self.request(Kind::Mkdir, path, &[path.as_bytes(), b"\0"])
            .map(drop)
    }

    /// Removes a node and all below; no node is no error as long as its parent exists.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn rm(&self, path: &str) -> Result<()> {
        self.request(Kind::Rm, path, &[path.as_bytes(), b"\0"])
            .map(drop)
    }

    /// Removes a node and all below, whether or not its parent exists.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn rm_if_exists(&self, path: &str) -> Result<()> {
        found(self.rm(path)).map(drop)
    }

    /// Lists the names of a node's children, in parts if they do not fit one message.
    ///
    /// # Errors
    /// As [`request`](Self::request); ENOENT if there is no such node.
    fn directory(&self, path: &str) -> Result<Vec<String>> {
        match self.request(Kind::Directory, path, &[path.as_bytes(), b"\0"]) {
            Err(error) if error.refusal() == Some(Refusal::TooBig) => {
                directory_in_parts(self, path)
            }
            reply => Ok(strings(&reply?).map(to_string).collect()),
        }
    }

    /// Reads a node's permissions.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn get_perms(&self, path: &str) -> Result<Vec<Perm>> {
        let reply = self.request(Kind::GetPerms, path, &[path.as_bytes(), b"\0"])?;
        strings(&reply)
            .map(|text| Perm::parse(text).ok_or(Error::Protocol("a permission is malformed")))
            .collect()
    }

    /// Sets a node's permissions; the first entry is the owner's.
    ///
    /// # Errors
    /// As [`request`](Self::request); EPERM to whom does not own it.
    fn set_perms(&self, path: &str, perms: &[Perm]) -> Result<()> {
        let mut list = String::new();
        for perm in perms {
            list.push_str(&perm.to_string());
            list.push('\0');
        }
        let parts: [&[u8]; 3] = [path.as_bytes(), b"\0", list.as_bytes()];
        self.request(Kind::SetPerms, path, &parts).map(drop)
    }

    /// Writes a node and sets its permissions.
    ///
    /// # Errors
    /// As [`request`](Self::request).
    fn write_with_perms(&self, path: &str, value: impl AsRef<[u8]>, perms: &[Perm]) -> Result<()> {
        self.write(path, value)?;
        self.set_perms(path, perms)
    }
}

/// Reads the children by offsets, from the start again whenever the list changed meanwhile.
fn directory_in_parts(ops: &(impl Ops + ?Sized), path: &str) -> Result<Vec<String>> {
    let (mut names, mut generation, mut offset) = (Vec::new(), Vec::new(), 0usize);
    loop {
        let at = format!("{offset}\0");
        let parts: [&[u8]; 3] = [path.as_bytes(), b"\0", at.as_bytes()];
        let reply = ops.request(Kind::DirectoryPart, path, &parts)?;
        let end = reply.iter().position(|&byte| byte == 0);
        let (now, list) = end
            .and_then(|end| reply.split_at_checked(end + 1))
            .ok_or(Error::Protocol("a part without generation"))?;
        if offset > 0 && now != generation.as_slice() {
            names.clear();
            offset = 0;
            continue;
        }
        generation = now.to_vec();
        // The last part ends with an empty name.
        let (list, is_last) = match list.strip_suffix(b"\0\0") {
            Some(_) => (list.strip_suffix(b"\0").unwrap_or(list), true),
            None => (list, list.is_empty() || list == b"\0"),
        };
        offset += list.len();
        names.extend(strings(list).filter(|name| !name.is_empty()).map(to_string));
        if is_last {
            return Ok(names);
        }
    }
}

fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes text of bytes; those that are no UTF-8 are replaced.
pub(crate) fn to_string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Makes text of a reply, without the NUL that may end it.
pub(crate) fn into_string(mut bytes: Vec<u8>) -> String {
    if bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8(bytes).unwrap_or_else(|error| to_string(error.as_bytes()))
}
