//! Every unary call of etcd's v3 API: its path, its messages, and whether it may be repeated.
//!
//! A call is repeatable when it only reads: sent twice it does no harm, so it is sent again when
//! the connection broke or the server said `Unavailable`. All others are sent again only when it
//! is certain that they were not executed.

use crate::proto::etcdserverpb::*;
use std::marker::PhantomData;

/// A unary call.
pub struct Method<Q, R> {
    pub(super) path: &'static str,
    pub(super) repeatable: bool,
    kind: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Method<Q, R> {
    /// A call that only reads.
    const fn read(path: &'static str) -> Self {
        Method { path, repeatable: true, kind: PhantomData }
    }

    /// A call that may change something.
    const fn write(path: &'static str) -> Self {
        Method { path, repeatable: false, kind: PhantomData }
    }

    /// The same call, known to only read because of what its request says.
    pub(super) const fn repeatable_if(&self, only_reads: bool) -> Self {
        Method { path: self.path, repeatable: self.repeatable || only_reads, kind: PhantomData }
    }
}

macro_rules! methods {
    ($($name:ident: $kind:ident $service:literal $method:literal $request:ty => $response:ty;)*) => {
        $(
            pub const $name: Method<$request, $response> =
                Method::$kind(concat!("/etcdserverpb.", $service, "/", $method));
        )*
    };
}

methods! {
    RANGE: read "KV" "Range" RangeRequest => RangeResponse;
    PUT: write "KV" "Put" PutRequest => PutResponse;
    DELETE_RANGE: write "KV" "DeleteRange" DeleteRangeRequest => DeleteRangeResponse;
    TXN: write "KV" "Txn" TxnRequest => TxnResponse;
    COMPACT: write "KV" "Compact" CompactionRequest => CompactionResponse;

    LEASE_GRANT: write "Lease" "LeaseGrant" LeaseGrantRequest => LeaseGrantResponse;
    LEASE_REVOKE: write "Lease" "LeaseRevoke" LeaseRevokeRequest => LeaseRevokeResponse;
    LEASE_TIME_TO_LIVE:
        read "Lease" "LeaseTimeToLive" LeaseTimeToLiveRequest => LeaseTimeToLiveResponse;
    LEASE_LEASES: read "Lease" "LeaseLeases" LeaseLeasesRequest => LeaseLeasesResponse;

    MEMBER_ADD: write "Cluster" "MemberAdd" MemberAddRequest => MemberAddResponse;
    MEMBER_REMOVE: write "Cluster" "MemberRemove" MemberRemoveRequest => MemberRemoveResponse;
    MEMBER_UPDATE: write "Cluster" "MemberUpdate" MemberUpdateRequest => MemberUpdateResponse;
    MEMBER_LIST: read "Cluster" "MemberList" MemberListRequest => MemberListResponse;
    MEMBER_PROMOTE: write "Cluster" "MemberPromote" MemberPromoteRequest => MemberPromoteResponse;

    ALARM: write "Maintenance" "Alarm" AlarmRequest => AlarmResponse;
    STATUS: read "Maintenance" "Status" StatusRequest => StatusResponse;
    DEFRAGMENT: write "Maintenance" "Defragment" DefragmentRequest => DefragmentResponse;
    HASH: read "Maintenance" "Hash" HashRequest => HashResponse;
    HASH_KV: read "Maintenance" "HashKV" HashKvRequest => HashKvResponse;
    MOVE_LEADER: write "Maintenance" "MoveLeader" MoveLeaderRequest => MoveLeaderResponse;
    DOWNGRADE: write "Maintenance" "Downgrade" DowngradeRequest => DowngradeResponse;

    AUTH_ENABLE: write "Auth" "AuthEnable" AuthEnableRequest => AuthEnableResponse;
    AUTH_DISABLE: write "Auth" "AuthDisable" AuthDisableRequest => AuthDisableResponse;
    AUTH_STATUS: read "Auth" "AuthStatus" AuthStatusRequest => AuthStatusResponse;
    AUTHENTICATE: read "Auth" "Authenticate" AuthenticateRequest => AuthenticateResponse;
    USER_ADD: write "Auth" "UserAdd" AuthUserAddRequest => AuthUserAddResponse;
    USER_GET: read "Auth" "UserGet" AuthUserGetRequest => AuthUserGetResponse;
    USER_LIST: read "Auth" "UserList" AuthUserListRequest => AuthUserListResponse;
    USER_DELETE: write "Auth" "UserDelete" AuthUserDeleteRequest => AuthUserDeleteResponse;
    USER_CHANGE_PASSWORD: write "Auth" "UserChangePassword"
        AuthUserChangePasswordRequest => AuthUserChangePasswordResponse;
    USER_GRANT_ROLE:
        write "Auth" "UserGrantRole" AuthUserGrantRoleRequest => AuthUserGrantRoleResponse;
    USER_REVOKE_ROLE:
        write "Auth" "UserRevokeRole" AuthUserRevokeRoleRequest => AuthUserRevokeRoleResponse;
    ROLE_ADD: write "Auth" "RoleAdd" AuthRoleAddRequest => AuthRoleAddResponse;
    ROLE_GET: read "Auth" "RoleGet" AuthRoleGetRequest => AuthRoleGetResponse;
    ROLE_LIST: read "Auth" "RoleList" AuthRoleListRequest => AuthRoleListResponse;
    ROLE_DELETE: write "Auth" "RoleDelete" AuthRoleDeleteRequest => AuthRoleDeleteResponse;
    ROLE_GRANT_PERMISSION: write "Auth" "RoleGrantPermission"
        AuthRoleGrantPermissionRequest => AuthRoleGrantPermissionResponse;
    ROLE_REVOKE_PERMISSION: write "Auth" "RoleRevokePermission"
        AuthRoleRevokePermissionRequest => AuthRoleRevokePermissionResponse;
}

/// Paths of the calls that stream.
pub(super) const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
pub(super) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(super) const LEASE_KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub(super) const SNAPSHOT: &str = "/etcdserverpb.Maintenance/Snapshot";
