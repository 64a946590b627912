//! The few things that an installation does with a file system, so that a test can cut the power after any of them.

use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;

/// A file system. Nothing is safe against a power cut before it was synced: the content of a file by its `flush`, the names in a directory
/// by [`Disk::sync_dir`]. A rename happens whole or not at all.
pub trait Disk: Send {
    /// Creates a directory and those above it; one that is there is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// A new file in the place of whatever was there. Its `flush` syncs it.
    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>>;
    /// A file to read.
    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>>;
    /// Moves a file or a directory; a file replaces one that is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file, or a directory with what is in it; one that is not there is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory safe.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
}

/// The machine's own.
#[derive(Clone, Copy, Debug)]
pub struct RealDisk;

struct Synced(fs::File);

impl Write for Synced {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Write>> {
        Ok(Box::new(Synced(fs::File::create(path)?)))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
        Ok(Box::new(fs::File::open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = match fs::symlink_metadata(path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        fs::File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }
}

/// A file system in memory that stops after so many operations, and then has what a disk has after a power cut.
#[cfg(test)]
pub mod fake {
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What was not synced when the power went.
    #[derive(Clone, Copy, Debug)]
    pub enum Unsynced {
        /// None of it is there.
        Lost,
        /// All of it is there.
        Kept,
        /// For each name, and for each file how much of it, this generator says.
        Mixed(u64),
    }

    #[derive(Clone, Debug)]
    enum Node {
        File { content: Vec<u8>, safe: Vec<u8> },
        Dir { names: BTreeMap<String, usize>, safe: BTreeMap<String, usize> },
    }

    #[derive(Clone, Debug)]
    struct Tree {
        nodes: Vec<Node>,
        /// Operations until the power goes; none if it stays.
        left: Option<usize>,
        done: usize,
    }

    /// See the module.
    #[derive(Clone, Debug)]
    pub struct FakeDisk(Arc<Mutex<Tree>>);

    struct Handle(FakeDisk, usize);

    fn gone() -> io::Error {
        io::Error::other("the power is gone")
    }

    fn missing(path: &Path) -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, path.display().to_string())
    }

    fn next(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    }

    impl Default for FakeDisk {
        fn default() -> Self {
            let root = Node::Dir { names: BTreeMap::new(), safe: BTreeMap::new() };
            FakeDisk(Arc::new(Mutex::new(Tree { nodes: vec![root], left: None, done: 0 })))
        }
    }

    impl FakeDisk {
        /// A copy of it as it is, whose power goes after `left` operations.
        pub fn cut_after(&self, left: Option<usize>) -> FakeDisk {
            let mut tree = self.0.lock().unwrap().clone();
            (tree.left, tree.done) = (left, 0);
            FakeDisk(Arc::new(Mutex::new(tree)))
        }

        /// Operations done so far.
        pub fn done(&self) -> usize {
            self.0.lock().unwrap().done
        }

        /// What is there when the power comes back.
        pub fn after_power_cut(&self, unsynced: Unsynced) -> FakeDisk {
            let mut tree = self.0.lock().unwrap().clone();
            let mut seed = if let Unsynced::Mixed(seed) = unsynced { seed } else { 0 };
            for node in &mut tree.nodes {
                match node {
                    Node::File { content, safe } => {
                        match unsynced {
                            Unsynced::Lost => content.clone_from(safe),
                            Unsynced::Kept => {}
                            Unsynced::Mixed(_) if content != safe => match next(&mut seed) % 3 {
                                0 => content.clone_from(safe),
                                // the length is there, the bytes are not
                                1 => content.fill(0),
                                _ => {
                                    let len = next(&mut seed) as usize % (content.len() + 1);
                                    content.truncate(len);
                                }
                            },
                            Unsynced::Mixed(_) => {}
                        }
                        safe.clone_from(content);
                    }
                    Node::Dir { names, safe } => {
                        let every: BTreeSet<String> = names.keys().chain(safe.keys()).cloned().collect();
                        for name in every {
                            let is_kept = match unsynced {
                                Unsynced::Lost => false,
                                Unsynced::Kept => true,
                                Unsynced::Mixed(_) => next(&mut seed).is_multiple_of(2),
                            };
                            if is_kept {
                                continue;
                            }
                            match safe.get(&name) {
                                Some(node) => _ = names.insert(name, *node),
                                None => _ = names.remove(&name),
                            }
                        }
                        safe.clone_from(names);
                    }
                }
            }
            (tree.left, tree.done) = (None, 0);
            FakeDisk(Arc::new(Mutex::new(tree)))
        }

        fn change<T>(&self, work: impl FnOnce(&mut Tree) -> io::Result<T>) -> io::Result<T> {
            let mut tree = self.0.lock().unwrap();
            if tree.left == Some(0) {
                return Err(gone());
            }
            tree.left = tree.left.map(|left| left - 1);
            tree.done += 1;
            work(&mut tree)
        }

        fn look<T>(&self, work: impl FnOnce(&Tree) -> io::Result<T>) -> io::Result<T> {
            let tree = self.0.lock().unwrap();
            if tree.left == Some(0) { Err(gone()) } else { work(&tree) }
        }
    }

    impl Tree {
        fn find(&self, path: &Path) -> io::Result<usize> {
            path.iter().filter(|p| *p != "/").try_fold(0, |at, name| match &self.nodes[at] {
                Node::Dir { names, .. } => names.get(name.to_str().unwrap()).copied().ok_or_else(|| missing(path)),
                Node::File { .. } => Err(missing(path)),
            })
        }

        fn names(&mut self, dir: &Path) -> io::Result<&mut BTreeMap<String, usize>> {
            let at = self.find(dir)?;
            match &mut self.nodes[at] {
                Node::Dir { names, .. } => Ok(names),
                Node::File { .. } => Err(missing(dir)),
            }
        }

        fn put(&mut self, path: &Path, node: usize) -> io::Result<()> {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            self.names(path.parent().unwrap())?.insert(name, node);
            Ok(())
        }
    }

    impl Write for Handle {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.change(|tree| {
                if let Node::File { content, .. } = &mut tree.nodes[self.1] {
                    content.extend_from_slice(bytes);
                }
                Ok(bytes.len())
            })
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.change(|tree| {
                if let Node::File { content, safe } = &mut tree.nodes[self.1] {
                    safe.clone_from(content);
                }
                Ok(())
            })
        }
    }

    impl Disk for FakeDisk {
        fn create_dir(&self, path: &Path) -> io::Result<()> {
            let mut above = PathBuf::new();
            for name in path {
                above.push(name);
                if self.look(|tree| Ok(tree.find(&above).is_ok()))? {
                    continue;
                }
                self.change(|tree| {
                    tree.nodes.push(Node::Dir { names: BTreeMap::new(), safe: BTreeMap::new() });
                    tree.put(&above, tree.nodes.len() - 1)
                })?;
            }
            Ok(())
        }

        fn create(&self, path: &Path) -> io::Result<Box<dyn Write>> {
            let node = self.change(|tree| {
                tree.nodes.push(Node::File { content: Vec::new(), safe: Vec::new() });
                tree.put(path, tree.nodes.len() - 1)?;
                Ok(tree.nodes.len() - 1)
            })?;
            Ok(Box::new(Handle(self.clone(), node)))
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn Read>> {
            self.look(|tree| match &tree.nodes[tree.find(path)?] {
                Node::File { content, .. } => Ok(Box::new(io::Cursor::new(content.clone())) as Box<dyn Read>),
                Node::Dir { .. } => Err(missing(path)),
            })
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.change(|tree| {
                let node = tree.find(from)?;
                tree.put(to, node)?;
                tree.names(from.parent().unwrap())?.remove(from.file_name().unwrap().to_str().unwrap());
                Ok(())
            })
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            let inside = self.look(|tree| {
                Ok(tree.find(path).map_or(Vec::new(), |at| match &tree.nodes[at] {
                    Node::Dir { names, .. } => names.keys().cloned().collect(),
                    Node::File { .. } => Vec::new(),
                }))
            })?;
            inside.iter().try_for_each(|name| self.remove(&path.join(name)))?;
            if self.look(|tree| Ok(tree.find(path).is_err()))? {
                return Ok(());
            }
            self.change(|tree| {
                tree.names(path.parent().unwrap())?.remove(path.file_name().unwrap().to_str().unwrap());
                Ok(())
            })
        }

        fn sync_dir(&self, path: &Path) -> io::Result<()> {
            self.change(|tree| {
                let at = tree.find(path)?;
                if let Node::Dir { names, safe } = &mut tree.nodes[at] {
                    safe.clone_from(names);
                }
                Ok(())
            })
        }

        fn list(&self, path: &Path) -> io::Result<Vec<String>> {
            self.look(|tree| match &tree.nodes[tree.find(path)?] {
                Node::Dir { names, .. } => Ok(names.keys().cloned().collect()),
                Node::File { .. } => Err(missing(path)),
            })
        }
    }
}
