use knarr_net::{netns, testing::Scene};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

#[test]
fn a_namespace_below_its_own_copy_is_deleted_too() {
    let mut scene = Scene::new();
    let (one, other) = (scene.namespace("one"), scene.namespace("other"));
    // What the first `ip netns add` on a machine does to the folder of namespaces.
    let copied = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(scene.folder()), scene.folder(), None::<&str>, copied, None::<&str>).unwrap();
    let deleted = netns::delete(&one);
    let after = (one.exists(), netns::exists(&other));
    umount2(scene.folder(), MntFlags::MNT_DETACH).unwrap();
    deleted.unwrap();
    assert_eq!((after, one.exists(), netns::exists(&other)), ((false, true), false, true));
}
